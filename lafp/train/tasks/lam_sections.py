"""Defines sections of the LAM job's config."""

from dataclasses import dataclass, field

from lafp.config.ranges import check_at_least, check_positive
from lafp.data.labels import labeled_subset
from lafp.models.action_head import ActionHeadConfig


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """Adds action supervision to any objective: weight x error of a read-out of z.

    It is LAOM's main finding (arXiv:2502.00379). As in LAOM's code, a_t is read from z of
    (o_t, o_{t+k}), with k of the same ``window`` as without labels.
    """

    weight: float = 0.0
    """Weight of the supervised loss; 0 trains without labels. LAOM's 0.01, and 0.001 on
    cheetah-run, apply to actions of variance 35. With actions in [-1, 1], 0.5 and 0.05 cost about
    as much. The right weight depends on the scale of what the FDM predicts: in LAOM the supervision
    costs a fifth of what the FDM does, for which Meta-World with a small map needs 1.
    ``supervision_share`` measures it."""
    batch_size: int = 128
    """Labeled windows per optimizer step, over all workers."""
    label_fraction: float = 1.0
    """Share of the labeled training episodes whose actions may be seen."""
    label_seed: int = 0
    """Determines which episodes these are. The subsets of one seed are nested."""
    head: ActionHeadConfig = field(default_factory=ActionHeadConfig)
    """The head that predicts the actions. It is stored with the LAM, and evaluations can act with
    it: ``action_decoder: idm``."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "weight")
        check_at_least(self, 1, "batch_size")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(
                f"label_fraction must be in (0, 1], got {self.label_fraction}. "
                "To train without labels, set weight to 0."
            )

    def clips_of(self, labeled_shards: str) -> frozenset[str]:
        """Returns the ids of the clips whose actions are seen; none without supervision."""
        if self.weight == 0:
            return frozenset()
        return labeled_subset(labeled_shards, "train", self.label_fraction, self.label_seed)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Names one shard set of a mixture, and weights it."""

    shards: str | None = None
    """URI; the run's own ``shards/videos`` if null."""
    weight: float = 1.0
    """Weight of the set. Its share of the visited clips is this over the sum of all weights."""
    motion_power: float = 0.0
    """Within the set, clips are visited in proportion to their motion raised to this power. With 0
    all clips are visited equally often, with 1 a clip with twice the motion twice as often, but at
    most 8 times as often as the average."""

    def __post_init__(self) -> None:
        check_positive(self, "weight")
        check_at_least(self, 0, "motion_power")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Configures the probe from latent actions to true actions that is measured in training.

    The evaluation of a finished LAM takes all transitions.
    """

    max_transitions: int = 2000
    """Largest number of transitions per split, spread evenly over up to 256 of its clips."""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "max_transitions")
