"""Finds stages that a pipeline reads, and that neither its sections make nor its run has."""

from collections.abc import Iterator
from dataclasses import dataclass

from lafp.config import ConfigError
from lafp.finished.load import LAM_HEAD
from lafp.runs.run_dir import RunDir
from ray_jobs.studies.pipeline_config import PipelineConfig

_VIDEOS, _LABELED = "shards/videos", "shards/labeled"


@dataclass(frozen=True)
class _Read:
    """One stage that a section reads."""

    where: str
    """Key and value of the section that asks for it."""
    stages: tuple[str, ...]
    """Names of stages, of which one is enough."""
    advice: str


def check_stages_read(cfg: PipelineConfig, made: set[str], run: RunDir) -> None:
    """Finds what would stop a stage hours later, because nothing makes a stage that it reads.

    Args:
        cfg: The pipeline's config.
        made: Names of the stages that its sections make.
        run: The pipeline's run, which may have stages of an earlier command.

    Raises:
        ConfigError: A stage is missing. The message names the section that reads it.
    """
    for read in _reads(cfg):
        is_there = any(name in made or run.stage(name).is_begun() for name in read.stages)
        if not is_there:
            missing = " or ".join(read.stages)
            raise ConfigError(
                f"{read.where} needs {missing}, which no section of the pipeline makes and "
                f"{run.uri} does not have. {read.advice}"
            )


def _reads(cfg: PipelineConfig) -> Iterator[_Read]:
    yield from _reads_of_shards(cfg)
    for number, policy in enumerate(cfg.train_policy):
        if policy.latents is not None and "/" not in policy.latents:
            yield _Read(
                f"train_policy.{number}.latents={policy.latents}",
                (f"latents/{policy.latents}",),
                f"Set label_latents.name={policy.latents}, or latents=null to run the LAM.",
            )
    for number, method in enumerate(cfg.evaluate.methods):
        where = f"evaluate.methods.{number}"
        yield _Read(
            f"{where}.policy={method.policy}",
            (f"policy/{method.policy}",),
            "Correct the name, or add it to train_policy or train_bc.",
        )
        if method.action_decoder not in (None, LAM_HEAD):
            yield _Read(
                f"{where}.action_decoder={method.action_decoder}",
                (f"decoder/{method.action_decoder}",),
                "Correct the name, or add it to train_decoder.",
            )


def _reads_of_shards(cfg: PipelineConfig) -> Iterator[_Read]:
    lam = cfg.train_lam
    of_videos: list[tuple[str, object]] = [("train_lam", lam.data or lam.shards)]
    of_videos += [("label_latents", cfg.label_latents.shards)] if cfg.label_latents else []
    of_videos += [(f"train_policy.{n}", item.shards) for n, item in enumerate(cfg.train_policy)]
    for where, given in of_videos:
        if not given:
            yield _Read(
                where,
                (_VIDEOS, _LABELED),
                f"Add the section preprocess, or set {where}.shards=FOLDER_OR_URI.",
            )
    supervision = lam.supervision.weight > 0
    of_labeled = [("train_lam", lam.labeled_shards)] if supervision else []
    for key in ("train_decoder", "train_bc"):
        of_labeled += [(f"{key}.{n}", s.labeled_shards) for n, s in enumerate(getattr(cfg, key))]
    of_labeled += [("evaluate", cfg.evaluate.labeled_shards)] if cfg.evaluate.methods else []
    for where, shards in of_labeled:
        if shards is None:
            yield _Read(
                where,
                (_LABELED,),
                "Add the section preprocess_labeled, or set "
                f"{where}.labeled_shards=FOLDER_OR_URI"
                + (" or train_lam.supervision.weight=0." if where == "train_lam" else "."),
            )
