"""Defines the study's config: a pipeline that varies along axes, shares of the labels and seeds."""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from lafp.config import ConfigError, may_change, with_overrides
from lafp.config.ranges import check_at_least
from ray_jobs.studies.pipeline_config import PipelineConfig

T = TypeVar("T")
LabelScope = Literal["action_decoder", "lam", "both"]


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """One value on an axis."""

    label: str
    """Name of the value in folders and table rows: letters, digits, ``.``, ``_`` and ``-``."""
    overrides: tuple[str, ...] = ()
    """Changes to the pipeline, e.g. ``["train_decoder.*.label_fraction=0.1"]``."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.label):
            raise ValueError(
                f"label must be letters, digits, '.', '_' and '-' only, got {self.label!r}."
            )


@dataclass(frozen=True, kw_only=True)
class AxisConfig:
    """One dimension of the grid: every run takes one of its values."""

    values: tuple[ValueConfig, ...]

    def __post_init__(self) -> None:
        labels = [value.label for value in self.values]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"values must be one or more values with different labels, got the labels {labels}."
            )


@dataclass(frozen=True, kw_only=True)
class LabelAxisConfig:
    """Varies the share of labels as the last axis of a study, to see how many labels are needed."""

    fractions: tuple[float, ...]
    """Shares of the labeled training episodes, in [0, 1], e.g. ``[0.01, 0.025, 0.1, 1]``. The
    subsets of one seed are nested. 0 fits scope ``lam`` only."""
    scope: LabelScope = "action_decoder"
    """Says which labels are reduced: those of the action decoder (and of ``train_bc``), those of
    the LAM's supervision, or both."""

    def __post_init__(self) -> None:
        fractions = self.fractions
        if not fractions or len(set(fractions)) < len(fractions):
            raise ValueError(f"fractions must be one or more different shares, got {fractions}.")
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError(f"fractions must be in [0, 1], got {fractions}.")
        if 0 in fractions and self.scope != "lam":
            raise ValueError(
                "fractions holds 0, but an action decoder needs labels. Leave 0 out, or set scope "
                "to lam."
            )

    def overrides(self, fraction: float, is_supervised: bool) -> tuple[str, ...]:
        """Returns the overrides of the pipeline for one share of the labels.

        Args:
            fraction: The share.
            is_supervised: Whether the LAM sees labels at all. One that sees none is the same for
                all shares, and is trained once for them.
        """
        # The baseline without latent actions gets the same labels as the action decoder.
        decoding = (
            f"train_decoder.*.label_fraction={fraction}",
            f"train_bc.*.label_fraction={fraction}",
        )
        supervision: tuple[str, ...] = ()
        if fraction == 0:
            # A share of 0 leaves no clips to train on, so the supervision itself is switched off.
            supervision = ("train_lam.supervision.weight=0",)
        elif is_supervised:
            supervision = (f"train_lam.supervision.label_fraction={fraction}",)
        return {"action_decoder": decoding, "lam": supervision, "both": supervision + decoding}[
            self.scope
        ]


@dataclass(frozen=True, kw_only=True)
class AshaConfig:
    """Configures ASHA (arXiv:1810.05934), which stops runs that are behind at a rung.

    It serves to choose among methods. It would bias a curve over label fractions, because runs with
    few labels would be stopped.
    """

    metric: str
    """A metric of a run's own training, e.g. ``val/action_mse_deployed``; see a stage's
    ``metrics.jsonl``."""
    mode: Literal["min", "max"]
    grace_steps: int
    """Number of optimizer steps before a run may be stopped."""
    reduction_factor: int = 3
    """At each rung one in this many runs goes on. The steps of rungs are this factor apart."""

    def __post_init__(self) -> None:
        if self.grace_steps < 1 or self.reduction_factor < 2:
            raise ValueError(
                "grace_steps must be at least 1 and reduction_factor at least 2, got "
                f"{self.grace_steps} and {self.reduction_factor}."
            )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Configures a grid of pipelines: every combination of values, for every seed."""

    name: str
    """Value of the ``study`` column in all results."""
    pipeline: PipelineConfig
    """The pipeline that all runs share, before the changes of their values."""
    axes: tuple[AxisConfig, ...] = ()
    """Dimensions of the grid. Without axes, the pipeline runs unchanged for every seed."""
    only: tuple[str, ...] = ()
    """Labels of the values to run; empty runs all. An axis that has none of these labels keeps all
    its values. So a large study can be run in parts: the next command goes on with others."""
    labels: LabelAxisConfig | None = None
    """Draws results over the share of labels: a curve for every value of ``axes`` and every method
    of ``pipeline.evaluate``."""
    seeds: tuple[int, ...]
    """Each seed replaces every ``seed`` and ``label_seed`` of the pipeline: for demonstrations,
    weights, order of clips, labeled subsets and episodes."""
    max_concurrent: int = may_change(default=1)
    """Largest number of stages at the same time. On a small cluster fewer run."""
    asha: AshaConfig | None = None
    """Stops runs early. null runs all to their end."""
    stall_timeout_min: float = may_change(default=30.0)
    """Minutes without any output of a stage after which the study ends with an error, which says
    what waits for what. Only on Ray."""
    max_trial_failures: int = may_change(default=3)
    """How often a run starts again, from its checkpoints, after its process or node was lost.
    Only on Ray."""
    note: str = may_change(default="")
    """First line of the study's section of a page (``--page``), for important facts such as the
    study's scale."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers >= 0, got {self.seeds}.")
        check_at_least(self, 1, "max_concurrent")
        labels = [value.label for axis in self.axes for value in axis.values]
        if unknown := [label for label in self.only if label not in labels]:
            raise ValueError(f"only names {unknown}, which no axis has: the labels are {labels}.")
        if self.stall_timeout_min <= 0 or self.max_trial_failures < 0:
            raise ValueError(
                "stall_timeout_min must be positive and max_trial_failures not negative, got "
                f"{self.stall_timeout_min} and {self.max_trial_failures}."
            )
        readers = [*self.pipeline.train_decoder, *self.pipeline.train_bc]
        if self.labels and self.labels.scope != "lam" and not readers:
            raise ValueError(
                f"labels.scope {self.labels.scope} varies the labels of action decoders and of "
                "cloning, and the pipeline has neither: add train_decoder or train_bc."
            )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study."""

    name: str
    """Name of the run's folder below ``runs/``."""
    values: tuple[str, ...]
    """Label of the value on each of ``axes``."""
    seed: int
    label_fraction: float | None
    """Share of the labels; None if the study does not vary it."""
    pipeline: PipelineConfig

    @property
    def variant(self) -> str:
        """The names of all values, joined. Seed and share of the labels are no part of it."""
        return "-".join(self.values)


@functools.cache
def cells(cfg: StudyConfig) -> tuple[Cell, ...]:
    """Lists the runs of a study, or those that ``only`` picks, seed by seed.

    Raises:
        ConfigError: An override does not fit the pipeline, two runs would get one name, or labels
            of the LAM vary and no run has any; the message names the values.
    """
    fractions = cfg.labels.fractions if cfg.labels else (None,)
    found: dict[str, tuple[tuple[str, ...], Cell]] = {}
    of_all_axes = itertools.product(*(axis.values for axis in cfg.axes))
    for seed, values, fraction in itertools.product(cfg.seeds, of_all_axes, fractions):
        cell = _cell(cfg, seed, values, fraction)
        of_axes = *(value.label for value in values), *([f"{fraction}"] if fraction else [])
        if cell.name in found:
            twice = " and ".join(", ".join(of) for of in (found[cell.name][0], of_axes))
            raise ConfigError(
                f"Two runs of the study would be called {cell.name}, those of the values {twice}. "
                "Change a label on axes, or a share in labels.fractions."
            )
        found[cell.name] = of_axes, cell
    made = tuple(cell for _, cell in found.values())
    is_any_supervised = any(cell.pipeline.train_lam.supervision.weight for cell in made)
    if cfg.labels and cfg.labels.scope != "action_decoder" and not is_any_supervised:
        raise ConfigError(
            f"labels.scope {cfg.labels.scope} varies the labels of the LAM, which sees none in any "
            "run: set pipeline.train_lam.supervision.weight."
        )
    return tuple(cell for of_axes, cell in found.values() if _is_picked(cfg, of_axes))


def _is_picked(cfg: StudyConfig, of_axes: Sequence[str]) -> bool:
    """Tells whether ``only`` leaves a run in the study.

    Args:
        cfg: The study's config.
        of_axes: Labels of the run, which begin with its value on each axis.
    """
    for axis, label in zip(cfg.axes, of_axes, strict=False):
        wanted = [value.label for value in axis.values if value.label in cfg.only]
        if wanted and label not in wanted:
            return False
    return True


def _cell(
    cfg: StudyConfig, seed: int, values: Sequence[ValueConfig], fraction: float | None
) -> Cell:
    labels = [value.label for value in values]
    if fraction is not None:
        labels.append(f"labels_{fraction:g}")
    try:
        pipeline = with_overrides(cfg.pipeline, [item for v in values for item in v.overrides])
        if cfg.labels and fraction is not None:
            is_supervised = pipeline.train_lam.supervision.weight > 0
            pipeline = with_overrides(pipeline, cfg.labels.overrides(fraction, is_supervised))
    except ConfigError as error:
        raise ConfigError(f"axes, value {'-'.join(labels)}: {error}") from None
    pipeline = _with_seed(pipeline, seed)
    evaluate = replace(pipeline.evaluate, study=cfg.name, variant="-".join(labels) or None)
    return Cell(
        name="-".join([*labels, f"seed_{seed}"]),
        values=tuple(value.label for value in values),
        seed=seed,
        label_fraction=fraction,
        pipeline=replace(pipeline, evaluate=evaluate),
    )


def _with_seed(config: T, seed: int) -> T:
    """Copies a config tree and sets every field called ``seed`` or ``label_seed``."""
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
