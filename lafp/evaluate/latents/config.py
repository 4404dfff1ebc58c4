"""The config of the evaluation of a latent action model, or of a frozen encoder."""

from dataclasses import dataclass

from lafp.config import may_change
from lafp.config.ranges import check_at_least
from lafp.evaluate.latents.lary_tables import LaryTable


@dataclass(frozen=True, kw_only=True)
class EvaluateLamConfig:
    """Says which model is measured on which labeled clips."""

    lam: str | None = None
    """Folder or URI of a finished LAM; the run's own ``lam`` if this and encoder are null."""
    encoder: str | None = None
    """Local folder with DINOv2's weights, at the same path on every node. Its frozen features are
    then measured in place of a LAM: those of o_t and o_{t+1} side by side, and their difference."""
    shards: str | None = None
    """Shard set with actions; the run's own ``shards/labeled`` if null. Probes are fitted on its
    training episodes, without those that supervised the LAM, and measured on the held-out ones."""
    dinov2: str | None = None
    """Local folder with DINOv2's weights, at the same path on every node. The difference of its
    frozen features is then measured beside z of a LAM, as a control."""
    swapped_shards: str | None = None
    """Shard set with the held-out episodes of ``shards`` in front of other backgrounds, from a
    second run of ``collect`` with the same seed. It shows how much of z follows the background."""
    lary_stride: int | None = None
    """Steps between the frames of LARY's regression, which is then measured too (LARY: 5 on CALVIN
    and VLABench, 10 on RoboCOIN, 45 on AgiBotWorld)."""
    lary_tables: tuple[LaryTable, ...] = ()
    """Tables of LARY for whose frames z is written, in the files that LARY's commands read."""
    lary_probe: str | None = None
    """LARY's ``--dataset`` (``robot_1st`` or ``human_1st``) whose classes of actions its attentive
    probe learns from the table ``{dataset}_metadata_train.csv``. It is measured on
    ``{dataset}_metadata_val.csv``. Both tables must be among ``lary_tables``."""
    pair_steps: int = 1
    """Steps between the observations a, b and c of which it is asked whether z(a, b) and z(b, c)
    add up to z(a, c)."""
    max_memory_gb: float = 4.0
    """Limit of the matrices of a probe, in 10^9 bytes, for each task. A probe of D features on N
    transitions needs 32 min(D, N)^2 bytes; if that is more, it is fitted on fewer transitions,
    spread over all. 4 allows D = 11,000. The features themselves lie in files below TMPDIR: 4 N D
    bytes. Reading clips and running the models takes up to 1 GB more."""
    seed: int = 0
    """Seed of the untrained model's weights."""
    use_gpu: bool = may_change(default=False)
    """Gives each task one GPU besides its CPU."""

    def __post_init__(self) -> None:
        for name in ("lam", "dinov2"):
            if self.encoder is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"Set {name} or encoder, not both: an encoder is measured in place of a LAM. "
                    "dinov2=FOLDER measures one beside a LAM."
                )
        check_at_least(self, 1, "lary_stride")
        if self.encoder is not None and self.lary_tables:
            raise ValueError("lary_tables writes z of a LAM. LARY extracts DINOv2 itself.")
        names = [(*table.dataset_and_split, table.model) for table in self.lary_tables]
        if len(set(names)) < len(names):
            raise ValueError("lary_tables: two tables have one dataset, split and model.")
        for split in () if self.lary_probe is None else ("train", "val"):
            if self._lary_table(split) is None:
                raise ValueError(
                    f"lary_probe: {self.lary_probe}_metadata_{split}.csv is not among "
                    "lary_tables. Name it there, with its frames."
                )
        check_at_least(self, 1, "pair_steps")
        if not self.max_memory_gb >= 0.01:
            raise ValueError(f"max_memory_gb must be at least 0.01, got {self.max_memory_gb}.")
        check_at_least(self, 0, "seed")

    @property
    def lary_probe_tables(self) -> tuple[LaryTable, LaryTable] | None:
        """The tables train and val of ``lary_probe``; None without it."""
        train, val = map(self._lary_table, ("train", "val"))
        return None if train is None or val is None else (train, val)

    def _lary_table(self, split: str) -> LaryTable | None:
        named = (self.lary_probe, split)
        return next((t for t in self.lary_tables if t.dataset_and_split == named), None)

    @property
    def max_memory_bytes(self) -> int:
        """``max_memory_gb`` in bytes."""
        return int(self.max_memory_gb * 1e9)
