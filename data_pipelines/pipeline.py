"""`preprocess`, top to bottom: list -> tasks -> parts -> select -> shards -> tables.

Every arrow's result is stored before the next begins, so that the same command resumes: the plan of
tasks, each part, each shard. What the shards hold does not depend on the tasks' number or order.
"""

import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import ray.data

from data_pipelines.config import PreprocessConfig, TasksConfig
from data_pipelines.manifest import (
    check_accounts,
    reasons_in_words,
    shard_set,
    summarize,
    write_tables,
)
from data_pipelines.rows import PartRows, VideoItem, clip_row_from_dict
from data_pipelines.select_clips import select_clips
from data_pipelines.sources.fetch import start_host_gate
from data_pipelines.sources.listing import list_source, may_download
from data_pipelines.stages.write_shards import (
    ShardPlan,
    entry_name,
    plan_shards,
    write_part,
    write_shard,
)
from data_pipelines.video_to_clips import video_to_clips
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import ShardEntry
from lafp.progress import Progress
from lafp.video import VIDEO_DECODERS

# A source is called wrong only after this many videos.
_MIN_JUDGED_VIDEOS = 50
# Decoders leak a little: a worker process ends after this many tasks.
_TASKS_PER_WORKER = 100
# Ray Data retries for ever by default; a file that kills its worker must not.
_MAX_RETRIES = 3


def preprocess(cfg: PreprocessConfig, uri: str) -> dict[str, Any]:
    """Makes the shard set of one source below ``uri``, resuming what it finds there.

    Needs Ray to be initialized.

    Args:
        cfg: The job's config; ``source`` is set.
        uri: Folder of the stage, local or S3.

    Returns:
        The stage's summary.

    Raises:
        ConfigError: The source is missing, empty, or yields too little.
        StorageError: Reading or writing failed. Run again to resume.
    """
    work, totals = storage.join(uri, "work"), storage.join(uri, "totals.json")
    if not storage.is_file(storage.join(uri, "shard_set.json")):
        tasks = plan_tasks(cfg, work)
        if may_download(cfg):
            start_host_gate()
        make_parts(cfg, tasks, work)
        selection = select_clips(_read_parts(tasks, work), cfg)
        check_accounts(selection)
        spec = shard_set(selection, cfg)
        plans = plan_shards(selection.clips, cfg.shards.max_bytes)
        entries = make_shards(cfg, plans, work, uri)
        write_tables(uri, selection, plans, entries)
        storage.write_text(totals, json.dumps(summarize(selection, spec, entries), indent=1))
        storage.write_text(storage.join(uri, "shard_set.json"), spec.to_json())
    storage.delete_folder(work)
    return json.loads(storage.read_text(totals))


def list_inputs(cfg: PreprocessConfig) -> Iterator[VideoItem]:
    """Every input of the job, training sources first."""
    assert cfg.source is not None
    yield from list_source(cfg.source, "train" if cfg.val_source else None, cfg)
    if cfg.val_source is not None:
        yield from list_source(cfg.val_source, "val", cfg)


def plan_tasks(cfg: PreprocessConfig, work: str) -> list[tuple[VideoItem, ...]]:
    """Deals the inputs out to tasks, once: a resumed job sees the listing that it began with."""
    path = storage.join(work, "plan.json")
    if not storage.is_file(path):
        tasks = list(_deal(list_inputs(cfg), cfg.tasks))
        storage.write_text(path, json.dumps([[asdict(item) for item in task] for task in tasks]))
    raw = json.loads(storage.read_text(path))
    return [tuple(VideoItem(**item) for item in task) for task in raw]


def _deal(items: Iterable[VideoItem], cfg: TasksConfig) -> Iterator[tuple[VideoItem, ...]]:
    task: list[VideoItem] = []
    for item in items:
        task.append(item)
        is_full = sum(i.num_bytes for i in task) >= cfg.bytes_per_task
        if is_full or len(task) == cfg.videos_per_task:
            yield tuple(task)
            task = []
    if task:
        yield tuple(task)


def make_parts(cfg: PreprocessConfig, tasks: Sequence[tuple[VideoItem, ...]], work: str) -> None:
    """Decodes, cuts and encodes all videos: one Ray task makes one part.

    Raises:
        ConfigError: More than ``max_reject_fraction`` of the videos give no clip.
    """
    found = {info.uri.rpartition("/")[2] for info in storage.list_files(work)}
    is_done = [entry_name(_part_name(i)) in found for i in range(len(tasks))]
    rows = [
        {"part": _part_name(i), "items": json.dumps([asdict(item) for item in task])}
        for i, task in enumerate(tasks)
        if not is_done[i]
    ]
    num_done = sum(len(task) for i, task in enumerate(tasks) if is_done[i])
    num_clips = num_empty = num_judged = 0
    reasons: Counter[str] = Counter()
    with Progress(f"preprocess {cfg.name}", sum(map(len, tasks)), "videos") as progress:
        progress.update(num_done)
        for row in _on_ray(_make_part, rows, cfg, work=work):
            num_done += row["num_items"]
            num_judged += row["num_videos"]
            num_clips += row["num_clips"]
            num_empty += row["num_empty"]
            reasons += Counter(row["reasons"])
            progress.update(num_done, f"{num_clips} clips, {reasons.total()} rejects")
            is_last = num_done == sum(map(len, tasks))
            if num_judged >= _MIN_JUDGED_VIDEOS or (is_last and num_judged):
                _check_rejects(cfg, num_empty, num_judged, reasons)


def _check_rejects(
    cfg: PreprocessConfig, num_empty: int, num_judged: int, reasons: Counter[str]
) -> None:
    if num_empty > cfg.max_reject_fraction * num_judged:
        raise ConfigError(
            f"{num_empty} of {num_judged} videos in {cfg.source} give no clip, "
            f"max_reject_fraction is {cfg.max_reject_fraction}. {reasons_in_words(reasons)}"
        )


def _part_name(number: int) -> str:
    return f"part-{number:06d}.tar"


def _make_part(row: dict[str, Any], cfg: PreprocessConfig, work: str) -> dict[str, Any]:
    """The work of one Ray task. Returns a small row for progress."""
    items = [VideoItem(**item) for item in json.loads(row["items"])]
    decoder = VIDEO_DECODERS.get(cfg.decoder.name)(cfg.decoder)
    clips = (made for item in items for made in video_to_clips(item, cfg, decoder))
    part = write_part(clips, work, row["part"])
    with_clips = {clip.record.video_uri for clip in part.clips}
    return {
        "num_items": len(items),
        "num_videos": len(part.videos),
        "num_empty": sum(video.uri not in with_clips for video in part.videos),
        "num_clips": len(part.clips),
        "reasons": Counter(reject.reason for reject in part.rejects),
    }


def _read_parts(tasks: Sequence[Any], work: str) -> Iterator[PartRows]:
    for number in range(len(tasks)):
        text = storage.read_text(storage.join(work, entry_name(_part_name(number))))
        yield PartRows.from_dict(json.loads(text))


def make_shards(
    cfg: PreprocessConfig, plans: Sequence[ShardPlan], work: str, uri: str
) -> list[ShardEntry]:
    """Composes the shards that are not there yet: one Ray task makes one shard."""
    found = {info.uri.rpartition("/")[2] for info in storage.list_files(uri)}
    missing = [plan for plan in plans if entry_name(plan.shard) not in found]
    rows = [{"plan": json.dumps(asdict(plan))} for plan in missing]
    num_done = len(plans) - len(rows)
    with Progress(f"shards {cfg.name}", len(plans), "shards") as progress:
        progress.update(num_done)
        for _ in _on_ray(_make_shard, rows, cfg, work=work, uri=uri):
            num_done += 1
            progress.update(num_done)
    entries = (storage.read_text(storage.join(uri, entry_name(plan.shard))) for plan in plans)
    return [ShardEntry.from_json(text) for text in entries]


def _make_shard(row: dict[str, Any], cfg: PreprocessConfig, work: str, uri: str) -> dict[str, Any]:
    raw = json.loads(row["plan"])
    clips = tuple(clip_row_from_dict(clip) for clip in raw["clips"])
    entry = write_shard(ShardPlan(**raw | {"clips": clips}), work, uri)
    return {"shard": entry.shard}


def _on_ray(
    function: Callable[..., dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    cfg: PreprocessConfig,
    **kwargs: Any,
) -> Iterator[dict[str, Any]]:
    """Runs ``function`` on every row, one task each, and yields results as they come.

    Raises:
        StorageError: A task could not read or write.
    """
    if not rows:
        return
    # Errors reach the user through the exception, progress through our own line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with warnings.catch_warnings():
        # Deprecated for Ray 2.64, but until then the only way to bound the retries.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        results = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            partial(_attempt, function=function, cfg=cfg, **kwargs),
            num_cpus=1,
            memory=cfg.tasks.memory_bytes,
            max_calls=_TASKS_PER_WORKER,
            ray_remote_args_fn=partial(dict, max_retries=_MAX_RETRIES),
        )
    for row in results.iter_rows():
        if row["error"]:
            raise storage.StorageError(row["error"])
        yield json.loads(row["result"])


def _attempt(
    row: dict[str, Any], function: Callable[..., dict[str, Any]], **kwargs: Any
) -> dict[str, Any]:
    """Runs on a worker. A failing disk or network is a row: Ray buries exceptions in its own."""
    try:
        return {"result": json.dumps(function(row, **kwargs)), "error": ""}
    except OSError as error:
        return {"result": "", "error": str(error)}
