"""The study's config: one pipeline, varied along axes and seeds."""

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from lafp.config import ConfigError, may_change, with_overrides
from ray_jobs.studies.pipeline_config import PipelineConfig

T = TypeVar("T")


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
class StudyConfig:
    """A grid of pipelines: every combination of values, for every seed."""

    name: str
    """Goes into the ``study`` column of all results."""
    pipeline: PipelineConfig
    """What all runs have in common."""
    axes: tuple[AxisConfig, ...] = ()
    """No axes: the pipeline as it is, for every seed."""
    seeds: tuple[int, ...]
    """Each becomes every ``seed`` and ``label_seed`` of the pipeline: of demonstrations, weights,
    order, labeled subsets, episodes."""
    max_concurrent: int = may_change(default=1)
    """Stages that run at the same time."""
    note: str = may_change(default="")
    """First line of its section of a page (``--page``): what a reader must know, e.g. its scale."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers >= 0, got {self.seeds}.")
        if self.max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {self.max_concurrent}.")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study."""

    name: str
    """Folder below ``runs/``."""
    variant: str
    seed: int
    pipeline: PipelineConfig


@functools.cache
def cells(cfg: StudyConfig) -> tuple[Cell, ...]:
    """All runs of a study: seed by seed, so that a stopped study has whole comparisons.

    Raises:
        ConfigError: An override does not fit the pipeline; the message names its value.
    """
    return tuple(_cells(cfg))


def _cells(cfg: StudyConfig) -> Iterator[Cell]:
    for seed in cfg.seeds:
        for values in itertools.product(*(axis.values for axis in cfg.axes)):
            variant = "-".join(value.label for value in values)
            overrides = [item for value in values for item in value.overrides]
            try:
                pipeline = with_overrides(cfg.pipeline, overrides)
            except ConfigError as error:
                raise ConfigError(f"axes, value {variant}: {error}") from None
            pipeline = _with_seed(pipeline, seed)
            evaluate = replace(pipeline.evaluate, study=cfg.name, variant=variant or None)
            yield Cell(
                name="-".join(part for part in (variant, f"seed_{seed}") if part),
                variant=variant,
                seed=seed,
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
