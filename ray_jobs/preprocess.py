r"""Preprocess a source of videos into a shard set: clips of one size and rate, and reject rows.

python -m ray_jobs.preprocess configs/preprocess/videos.yaml source=FOLDER_OR_URI
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "preprocess",
    "data_pipelines.preprocess.config:PreprocessConfig",
    __doc__,
    extra="data",
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain

from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.estimate import estimate
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, list_source, preprocess
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.sources.listing import lists_remote_files
from lafp import storage
from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources, connect
from ray_jobs.core.job import Job

_RESOURCES = Resources(num_cpus=1)


def resolve(cfg: PreprocessConfig, run: RunDir) -> PreprocessConfig:
    """Returns the config with absolute URIs. Without a source it takes the demonstrations.

    Raises:
        ConfigError: The demonstrations have no masks, and these are asked for.
    """
    against = tuple(map(storage.absolute, cfg.filters.against))
    cfg = replace(cfg, filters=replace(cfg.filters, against=against))
    masks = cfg.masks
    if masks is not None:
        sources = {name: _absolute(uri) for name, uri in vars(masks).items()}
        masks = MasksConfig(**sources)
    if cfg.source is not None:
        source, val_source = _absolute(cfg.source), _absolute(cfg.val_source)
        return replace(cfg, source=source, val_source=val_source, masks=masks)
    demonstrations = run.stage("demonstrations")
    folder, held_out = ("videos", None) if cfg.labels is None else ("labeled", "labeled_val")
    if held_out is not None and not storage.exists(demonstrations.path(held_out)):
        held_out = None
    if masks is not None and masks.source is None:
        drawn = demonstrations.path("masks", folder)
        if demonstrations.is_complete() and not storage.exists(drawn):
            raise ConfigError(
                f"masks: {demonstrations.uri} was collected without masks. Collect it again with "
                "draw_masks=true under another --run-name, name a folder with masks.source=, or "
                "leave masks out."
            )
        masks = MasksConfig(
            source=drawn,
            val_source=held_out and demonstrations.path("masks", held_out),
        )
    return replace(
        cfg,
        source=demonstrations.path(folder),
        val_source=held_out and demonstrations.path(held_out),
        masks=masks,
    )


def _absolute(uri: str | None) -> str | None:
    return uri and storage.absolute(uri)


def inputs(cfg: PreprocessConfig, run: RunDir) -> dict[str, str]:
    """Returns fingerprints of the run's demonstrations or the source's listing, and of sets."""
    sets = _finished_sets(cfg)
    found = {"filters.against": sets.fingerprint} if sets.uris else {}
    if cfg.source is None:
        try:
            return found | {"demonstrations": run.stage("demonstrations").fingerprint()}
        except ConfigError as error:
            raise ConfigError(f"Set source=FOLDER_OR_URI. Without a source: {error}") from None
    cfg = resolve(cfg, run)
    found["source"] = listing_fingerprint(list_inputs(cfg))
    if cfg.masks is not None:
        folders = filter(None, (cfg.masks.source, cfg.masks.val_source))
        found["masks"] = listing_fingerprint(chain.from_iterable(map(storage.list_files, folders)))
    return found


def _finished_sets(cfg: PreprocessConfig) -> FinishedSets:
    return FinishedSets(tuple(map(storage.absolute, cfg.filters.against)))


def listing_fingerprint(files: Iterable[VideoItem | storage.FileInfo]) -> str:
    """Summarizes the names and sizes of listed files."""
    digest, num_files, num_bytes = hashlib.sha256(), 0, 0
    for file in files:
        digest.update(f"{file.uri}\0{file.num_bytes}\0".encode())
        num_files, num_bytes = num_files + 1, num_bytes + file.num_bytes
    return f"{num_files} files, {num_bytes} bytes, {digest.hexdigest()[:12]}"


def check(cfg: PreprocessConfig, run: RunDir) -> None:
    """Lists only the first file of each source, because a whole listing may take long.

    Raises:
        ConfigError: A source or a finished set is missing, or cannot be used.
    """
    if cfg.source is None:
        inputs(cfg, run)
    else:
        _finished_sets(cfg)
        cfg = resolve(cfg, run)
        for source in filter(None, (cfg.source, cfg.val_source)):
            next(list_source(source, None, cfg), None)


def plan(cfg: PreprocessConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: what would be made from how many videos."""
    cfg = resolve(cfg, run)
    where = run.stage(stage_name(cfg)).uri
    counts = FileCounts()
    sets = FinishedSets(cfg.filters.against)
    known = [f"  compared with {sets.num_clips:,} clips of finished sets"] if sets.uris else []
    expected = estimate(cfg, list_inputs(cfg, counts))
    return [f"{cfg.source} -> {where}", *known, *expected, *findings.files(counts.table())]


def stage_name(cfg: PreprocessConfig) -> str:
    """Returns the folder of the shard set in the run."""
    return f"shards/{cfg.name}"


def run_stage(cfg: PreprocessConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Makes the missing parts of the shard set."""
    return preprocess(resolve(cfg, run), stage.uri, partial(connect, _RESOURCES))


def can_be_alone(cfg: PreprocessConfig, run: RunDir) -> bool:
    """Returns whether the job can do without Ray.

    A thread that waits for a host or an object store does not end at Ctrl-C, so threads read and
    write local files only.
    """
    if cfg.tasks.node_labels or storage.is_remote(run.uri):
        return False
    cfg = resolve(cfg, run)
    masks = cfg.masks or MasksConfig()
    folders = filter(None, (cfg.source, cfg.val_source, masks.source, masks.val_source))
    return not (any(map(storage.is_remote, folders)) or lists_remote_files(cfg))


JOB = Job(
    name="preprocess",
    schema=PreprocessConfig,
    stage=stage_name,
    inputs=inputs,
    resources=lambda _: _RESOURCES,
    can_be_alone=can_be_alone,
    plan=plan,
    run=run_stage,
    tell=findings.preprocess,
    next_steps=next_steps.preprocess,
    reads=lambda cfg: ("demonstrations",) if cfg.source is None else (),
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
