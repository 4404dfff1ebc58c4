r"""Preprocess a source of videos into a shard set: clips of one size and rate, and reject rows.

python -m ray_jobs.preprocess configs/preprocess/videos.yaml source=FOLDER_OR_S3_URI
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "preprocess", "data_pipelines.preprocess.config:PreprocessConfig", __doc__, extra="data"
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

import hashlib
from dataclasses import replace
from typing import Any

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.estimate import estimate
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, list_source, preprocess
from lafp import storage
from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job


def resolve(cfg: PreprocessConfig, run: RunDir) -> PreprocessConfig:
    """Returns the config with absolute sources. Without a source it takes the demonstrations."""
    if cfg.source is not None:
        val_source = storage.absolute(cfg.val_source) if cfg.val_source else None
        return replace(cfg, source=storage.absolute(cfg.source), val_source=val_source)
    demonstrations = run.stage("demonstrations")
    if cfg.labels is None:
        return replace(cfg, source=demonstrations.path("videos"))
    held_out = demonstrations.path("labeled_val")
    return replace(
        cfg,
        source=demonstrations.path("labeled"),
        val_source=held_out if storage.exists(held_out) else None,
    )


def inputs(cfg: PreprocessConfig, run: RunDir) -> dict[str, str]:
    """Returns the fingerprint of the run's own demonstrations, or of the source's listing."""
    if cfg.source is None:
        try:
            return {"demonstrations": run.stage("demonstrations").fingerprint()}
        except ConfigError as error:
            raise ConfigError(f"Set source=FOLDER_OR_S3_URI. Without a source: {error}") from None
    digest, num_files, num_bytes = hashlib.sha256(), 0, 0
    for item in list_inputs(resolve(cfg, run)):
        digest.update(f"{item.uri}\0{item.num_bytes}\0".encode())
        num_files, num_bytes = num_files + 1, num_bytes + item.num_bytes
    return {"source": f"{num_files} files, {num_bytes} bytes, {digest.hexdigest()[:12]}"}


def check(cfg: PreprocessConfig, run: RunDir) -> None:
    """Lists only the first file of each source, because a whole listing may take long.

    Raises:
        ConfigError: A source is missing, or cannot be used.
    """
    if cfg.source is None:
        inputs(cfg, run)
    else:
        cfg = resolve(cfg, run)
        for source in filter(None, (cfg.source, cfg.val_source)):
            next(list_source(source, None, cfg), None)


def plan(cfg: PreprocessConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: what would be made from how many videos."""
    cfg = resolve(cfg, run)
    where = run.stage(stage_name(cfg)).uri
    counts = FileCounts()
    expected = estimate(cfg, list_inputs(cfg, counts))
    return [f"{cfg.source} -> {where}", *expected, *findings.files(counts.to_dict())]


def stage_name(cfg: PreprocessConfig) -> str:
    """Returns the folder of the shard set in the run."""
    return f"shards/{cfg.name}"


def run_stage(cfg: PreprocessConfig, run: RunDir, stage: StageDir) -> dict[str, Any]:
    """Makes the missing parts of the shard set."""
    return preprocess(resolve(cfg, run), stage.uri)


JOB = Job(
    name="preprocess",
    schema=PreprocessConfig,
    stage=stage_name,
    inputs=inputs,
    resources=lambda _: Resources(num_cpus=1),
    plan=plan,
    run=run_stage,
    tell=findings.preprocess,
    next_steps=next_steps.preprocess,
    reads=lambda cfg: ("demonstrations",) if cfg.source is None else (),
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
