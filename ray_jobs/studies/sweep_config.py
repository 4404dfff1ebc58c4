"""The sweep's config: one pipeline, over shares of the labels, methods and seeds."""

import itertools
from dataclasses import dataclass
from typing import Literal

from lafp.config import ConfigError, may_change
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.study_config import AxisConfig, Cell, StudyConfig, ValueConfig, cells

LabelScope = Literal["decoder", "lam", "both"]


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
    """ASHA (arXiv:1810.05934): trials that are behind at a rung are stopped.

    For choosing among methods. A curve over label fractions it would bias: few labels look bad.
    """

    metric: str
    """Of the trial's own training, e.g. ``val/action_mse_deployed``; see a stage's
    ``metrics.jsonl``."""
    mode: Literal["min", "max"]
    grace_steps: int
    """Optimizer steps that every trial gets."""
    reduction_factor: int = 3
    """One of this many goes on at each rung; rungs are this factor apart."""

    def __post_init__(self) -> None:
        if self.grace_steps < 1 or self.reduction_factor < 2:
            raise ValueError(
                "grace_steps must be at least 1 and reduction_factor at least 2, got "
                f"{self.grace_steps} and {self.reduction_factor}."
            )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How success grows with labels, for every method."""

    name: str
    """Goes into the ``study`` column of all results."""
    pipeline: PipelineConfig
    """What all trials have in common. Its ``evaluate.methods`` are measured in every trial."""
    label_fractions: tuple[float, ...]
    """Shares of the labeled training episodes, in [0, 1], e.g. ``[0.01, 0.025, 0.1, 1]``. The
    subsets of one seed are nested. 0 fits scope ``lam`` only."""
    label_scope: LabelScope = "decoder"
    """Whose labels: the action decoder's (and those of ``train_bc``), the LAM's supervision, or
    both."""
    methods: tuple[ValueConfig, ...] = ()
    """What else is compared, as changes of the pipeline: objectives, policies, ``anchor_time``."""
    seeds: tuple[int, ...]
    """Each becomes every ``seed`` and ``label_seed`` of the pipeline."""
    max_concurrent: int = may_change(default=1)
    """Stages or trials at the same time. Fewer where the cluster is too small for them."""
    early_stopping: EarlyStoppingConfig | None = None
    stall_timeout_min: float = may_change(default=30.0)
    """Nothing written by any stage for so long is an error that says what waits for what."""
    max_trial_failures: int = may_change(default=3)
    """How often a trial whose process or node went away starts again, from its checkpoints."""
    note: str = may_change(default="")
    """First line of its section of a page (``--page``): what a reader must know, e.g. its scale."""

    def __post_init__(self) -> None:
        fractions = self.label_fractions
        if not fractions or len(set(fractions)) < len(fractions):
            raise ValueError(
                f"label_fractions needs one or more different shares, got {fractions}."
            )
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError(f"label_fractions must be in [0, 1], got {fractions}.")
        if 0 in fractions and self.label_scope != "lam":
            raise ValueError(
                "label_fractions holds 0, but an action decoder needs labels. Leave 0 out, or set "
                "label_scope to lam."
            )
        if self.label_scope != "lam" and not self.pipeline.train_decoder:
            raise ValueError(
                f"label_scope {self.label_scope} varies the labels of action decoders, and the "
                "pipeline has none: add train_decoder."
            )
        if self.stall_timeout_min <= 0 or self.max_trial_failures < 0:
            raise ValueError(
                "stall_timeout_min must be positive and max_trial_failures not negative, got "
                f"{self.stall_timeout_min} and {self.max_trial_failures}."
            )


def as_study(cfg: SweepConfig) -> StudyConfig:
    """The same grid as a study: an axis of methods, where there are some, and one of fractions."""
    fractions = tuple(
        ValueConfig(label=f"labels_{fraction:g}", overrides=_overrides(fraction, cfg.label_scope))
        for fraction in cfg.label_fractions
    )
    axes = [AxisConfig(values=cfg.methods)] if cfg.methods else []
    return StudyConfig(
        name=cfg.name,
        pipeline=cfg.pipeline,
        axes=(*axes, AxisConfig(values=fractions)),
        seeds=cfg.seeds,
        max_concurrent=cfg.max_concurrent,
    )


def _overrides(fraction: float, scope: LabelScope) -> tuple[str, ...]:
    if fraction == 0:
        return ("train_lam.supervision.weight=0",)
    # The baseline without latent actions has the labels that the action decoder has.
    decoding = (
        f"train_decoder.*.label_fraction={fraction}",
        f"train_bc.*.label_fraction={fraction}",
    )
    return {
        "decoder": decoding,
        "lam": (f"train_lam.supervision.label_fraction={fraction}",),
        "both": (
            f"train_lam.supervision.label_fraction={fraction}",
            *decoding,
        ),
    }[scope]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep."""

    cell: Cell
    method: str | None
    """Label in ``methods``."""
    label_fraction: float


def trials(cfg: SweepConfig) -> list[Trial]:
    """All trials: seed by seed, method by method.

    Raises:
        ConfigError: An override does not fit, or a LAM that is to see labels has no use for them.
    """
    methods: list[str | None] = [method.label for method in cfg.methods]
    grid = list(itertools.product(methods or [None], cfg.label_fractions)) * len(cfg.seeds)
    found = [
        Trial(cell=cell, method=method, label_fraction=fraction)
        for cell, (method, fraction) in zip(cells(as_study(cfg)), grid, strict=True)
    ]
    for trial in found:
        supervision = trial.cell.pipeline.train_lam.supervision
        if cfg.label_scope != "decoder" and trial.label_fraction and not supervision.weight:
            raise ConfigError(
                f"label_scope {cfg.label_scope} varies the labels of the LAM, and that of "
                f"{trial.cell.name} sees none: set pipeline.train_lam.supervision.weight."
            )
    return found
