"""The evaluation's config."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lafp.config import Choice, choice
from lafp.config.ranges import check_at_least
from lafp.envs import ENVS
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """One way to act: a policy, its action decoder, and how the policy draws its noise."""

    label: str
    """Unique name, in tables and as a file name: letters, digits, ``.``, ``_`` and ``-``."""
    policy: str
    """Folder below ``policy/`` of the run."""
    action_decoder: str | None = None
    """Folder below ``decoder/`` of the run. ``idm`` is the head that was trained inside the LAM and
    needs no training of its own (LAFP's IDM-AD). null: a policy of true actions (``train_bc``)."""
    noise: Literal["fresh", "persistent", "held", "warm_start"] | None = None
    """Flow policies: overrides the policy's own setting. See ``LatentFlowConfig.noise``."""
    noise_hold_steps: int | None = None
    """Noise ``held``: overrides the policy's own setting."""
    num_solver_steps: int | None = None
    """Flow policies: overrides the policy's own setting."""
    sample_actions: bool = False
    """Discrete actions: draw each one from the decoder's distribution. By default the likeliest one
    is taken."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.label):
            raise ValueError(
                f"label must be letters, digits, '.', '_' and '-' only, got {self.label!r}."
            )
        taken = {DEMONSTRATOR: "the environment's expert", RANDOM: "random actions"}
        if self.label in taken:
            raise ValueError(f"label {self.label!r} is taken by {taken[self.label]}.")
        check_at_least(self, 1, "noise_hold_steps", "num_solver_steps")
        if self.noise_hold_steps is not None and self.noise not in (None, "held"):
            raise ValueError(
                f"noise_hold_steps belongs to noise held, got noise {self.noise}. Leave one out."
            )

    @property
    def overrides(self) -> dict[str, Any]:
        """Changes of the policy's own config."""
        names = ("noise", "noise_hold_steps", "num_solver_steps")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """Time per action, all methods in one interleaved run, so that a busy spell hits all alike."""

    batch_sizes: tuple[int, ...] = (1, 64)
    num_rounds: int = 60
    """Timings per method and batch size; the median counts."""
    solver_steps: tuple[int, ...] = (1, 2, 4, 8)
    """The first flow method is timed with these numbers of steps too."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes must be positive, got {self.batch_sizes}.")
        if self.solver_steps and min(self.solver_steps) < 1:
            raise ValueError(f"solver_steps must be positive, got {self.solver_steps}.")
        check_at_least(self, 1, "num_rounds")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of the evaluation. Without an environment it looks only at the latent actions."""

    study: str | None = None
    """Name of the study that this run belongs to, for result tables."""
    variant: str | None = None
    """The setting of this run that the study varied, its seed aside."""
    lam: str | None = None
    """Folder of a finished LAM; the run's own ``lam`` if null."""
    shards: str | None = None
    """Shard set to look at through the LAM. If null: what the run's LAM was trained on, several
    sets in their mixture; with a LAM from elsewhere the run's own ``shards/videos`` (or, in a run
    without them, ``shards/labeled``)."""
    labeled_shards: str | None = None
    """Shard set with held-out labeled clips; the run's own ``shards/labeled`` if null."""
    env: Choice | None = choice(ENVS, default=None)
    """Environment of the rollouts. It must look like the videos that the models were trained on."""
    methods: tuple[MethodConfig, ...] = ()
    """Methods to compare. The demonstrators are always measured beside them, and random actions
    where the environment has a return (dmc, procgen)."""
    num_episodes: int = 300
    """Episodes per method. All methods get the same ones."""
    episodes_per_task: int = 100
    """Episodes that run side by side in one Ray task. Results depend on it, because a policy draws
    the noise of these episodes together."""
    seed: int = 0
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    save_rollouts: int = 8
    """Episodes per method whose frames are kept, as one tiled video."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_episodes", "episodes_per_task")
        check_at_least(self, 0, "seed", "save_rollouts")
        if self.save_rollouts > self.episodes_per_task:
            raise ValueError(
                f"save_rollouts must be at most episodes_per_task {self.episodes_per_task}, "
                f"got {self.save_rollouts}."
            )
        labels = [method.label for method in self.methods]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"Labels of methods must differ, but {sorted(twice)} appear twice.")
        if self.methods and self.env is None:
            raise ValueError("methods need an environment: set env, or leave methods out.")
