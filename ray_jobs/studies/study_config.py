"""The study's config: one pipeline, varied along axes, the share of the labels, and seeds."""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from lafp.config import ConfigError, may_change, with_overrides
from ray_jobs.studies.pipeline_config import PipelineConfig

T = TypeVar("T")
LabelScope = Literal["decoder", "lam", "both"]


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """One value on an axis."""

    label: str
    """Letters, digits, ``.``, ``_`` and ``-``: names folders and table rows."""
    overrides: tuple[str, ...] = ()
    """What it changes in the pipeline, e.g. ``["train_decoder.*.label_fraction=0.1"]``."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.label):
            raise ValueError(
                f"label must be letters, digits, '.', '_' and '-' only, got {self.label!r}."
            )


@dataclass(frozen=True, kw_only=True)
class AxisConfig:
    """What is varied, one value at a time."""

    values: tuple[ValueConfig, ...]

    def __post_init__(self) -> None:
        labels = [value.label for value in self.values]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"values needs one or more different labels, got {labels}.")


@dataclass(frozen=True, kw_only=True)
class LabelAxisConfig:
    """The last axis of a study that asks how many labels are needed."""

    fractions: tuple[float, ...]
    """Shares of the labeled training episodes, in [0, 1], e.g. ``[0.01, 0.025, 0.1, 1]``. The
    subsets of one seed are nested. 0 fits scope ``lam`` only."""
    scope: LabelScope = "decoder"
    """Whose labels are cut: the action decoder's (and those of ``train_bc``), the LAM's
    supervision, or both."""

    def __post_init__(self) -> None:
        fractions = self.fractions
        if not fractions or len(set(fractions)) < len(fractions):
            raise ValueError(f"fractions needs one or more different shares, got {fractions}.")
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError(f"fractions must be in [0, 1], got {fractions}.")
        if 0 in fractions and self.scope != "lam":
            raise ValueError(
                "fractions holds 0, but an action decoder needs labels. Leave 0 out, or set scope "
                "to lam."
            )

    def overrides(self, fraction: float) -> tuple[str, ...]:
        """What a share changes in the pipeline."""
        if fraction == 0:
            return ("train_lam.supervision.weight=0",)
        # The baseline without latent actions has the labels that the action decoder has.
        decoding = (
            f"train_decoder.*.label_fraction={fraction}",
            f"train_bc.*.label_fraction={fraction}",
        )
        supervision = (f"train_lam.supervision.label_fraction={fraction}",)
        return {"decoder": decoding, "lam": supervision, "both": supervision + decoding}[self.scope]

    def check(self, fraction: float, pipeline: PipelineConfig) -> None:
        """Raises ConfigError where a LAM that is to see labels has no use for them."""
        if self.scope != "decoder" and fraction and not pipeline.train_lam.supervision.weight:
            raise ConfigError(
                f"labels.scope {self.scope} varies the labels of the LAM, which sees none: set "
                "pipeline.train_lam.supervision.weight."
            )


@dataclass(frozen=True, kw_only=True)
class AshaConfig:
    """ASHA (arXiv:1810.05934) stops runs that are behind at a rung.

    For choosing among methods. A curve over label fractions it would bias: few labels look bad.
    """

    metric: str
    """A metric of a run's own training, e.g. ``val/action_mse_deployed``; see a stage's
    ``metrics.jsonl``."""
    mode: Literal["min", "max"]
    grace_steps: int
    """Optimizer steps that every run gets."""
    reduction_factor: int = 3
    """One of this many goes on at each rung; rungs are this factor apart."""

    def __post_init__(self) -> None:
        if self.grace_steps < 1 or self.reduction_factor < 2:
            raise ValueError(
                "grace_steps must be at least 1 and reduction_factor at least 2, got "
                f"{self.grace_steps} and {self.reduction_factor}."
            )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A grid of pipelines: every combination of values, for every seed."""

    name: str
    """Goes into the ``study`` column of all results."""
    pipeline: PipelineConfig
    """What all runs have in common."""
    axes: tuple[AxisConfig, ...] = ()
    """No axes: the pipeline as it is, for every seed."""
    labels: LabelAxisConfig | None = None
    """Draws results over the share of labels: a curve for every value of ``axes`` and every method
    of ``pipeline.evaluate``."""
    seeds: tuple[int, ...]
    """Each becomes every ``seed`` and ``label_seed`` of the pipeline: of demonstrations, weights,
    order, labeled subsets, episodes."""
    max_concurrent: int = may_change(default=1)
    """Stages that run at the same time. Fewer where the cluster is too small for them."""
    asha: AshaConfig | None = None
    """Stops runs early. Null: all run to their end."""
    stall_timeout_min: float = may_change(default=30.0)
    """The study ends with an error, which says what waits for what, when no stage has written
    anything for so long."""
    max_trial_failures: int = may_change(default=3)
    """How often a run starts again, from its checkpoints, after its process or node went away."""
    note: str = may_change(default="")
    """First line of its section of a page (``--page``): what a reader must know, e.g. its scale."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers >= 0, got {self.seeds}.")
        if self.max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {self.max_concurrent}.")
        if self.stall_timeout_min <= 0 or self.max_trial_failures < 0:
            raise ValueError(
                "stall_timeout_min must be positive and max_trial_failures not negative, got "
                f"{self.stall_timeout_min} and {self.max_trial_failures}."
            )
        if self.labels and self.labels.scope != "lam" and not self.pipeline.train_decoder:
            raise ValueError(
                f"labels.scope {self.labels.scope} varies the labels of action decoders, and the "
                "pipeline has none: add train_decoder."
            )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study."""

    name: str
    """Folder below ``runs/``."""
    variant: str
    """Labels of the values on ``axes``."""
    label_fraction: float | None
    """The share of the labels, where the study varies it."""
    pipeline: PipelineConfig


@functools.cache
def cells(cfg: StudyConfig) -> tuple[Cell, ...]:
    """All runs of a study, seed by seed.

    Raises:
        ConfigError: An override does not fit the pipeline; the message names its value.
    """
    fractions = cfg.labels.fractions if cfg.labels else (None,)
    return tuple(
        _cell(cfg, seed, values, fraction)
        for seed in cfg.seeds
        for values in itertools.product(*(axis.values for axis in cfg.axes))
        for fraction in fractions
    )


def _cell(
    cfg: StudyConfig, seed: int, values: Sequence[ValueConfig], fraction: float | None
) -> Cell:
    labels = [value.label for value in values]
    overrides = [item for value in values for item in value.overrides]
    if cfg.labels and fraction is not None:
        labels.append(f"labels_{fraction:g}")
        overrides += cfg.labels.overrides(fraction)
    try:
        pipeline = with_overrides(cfg.pipeline, overrides)
        if cfg.labels and fraction is not None:
            cfg.labels.check(fraction, pipeline)
    except ConfigError as error:
        raise ConfigError(f"axes, value {'-'.join(labels)}: {error}") from None
    pipeline = _with_seed(pipeline, seed)
    evaluate = replace(pipeline.evaluate, study=cfg.name, variant="-".join(labels) or None)
    return Cell(
        name="-".join([*labels, f"seed_{seed}"]),
        variant="-".join(value.label for value in values),
        label_fraction=fraction,
        pipeline=replace(pipeline, evaluate=evaluate),
    )


def _with_seed(config: T, seed: int) -> T:
    """A copy of a config tree with every field called ``seed`` or ``label_seed`` set."""
    if isinstance(config, tuple):
        return tuple(_with_seed(item, seed) for item in config)  # type: ignore[return-value]
    if not is_dataclass(config) or isinstance(config, type):
        return config
    changes: dict[str, Any] = {
        f.name: seed
        if f.name in ("seed", "label_seed")
        else _with_seed(getattr(config, f.name), seed)
        for f in fields(config)
    }
    return replace(config, **changes)
