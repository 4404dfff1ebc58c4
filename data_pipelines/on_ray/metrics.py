"""Publishes our own metrics at Ray's Prometheus endpoint, which prefixes their names with ``ray_``.

The driver process of a job publishes them, because it knows the results of all tasks and workers.
The Grafana dashboard is ``infra/monitoring/grafana.json``.
"""

from collections.abc import Mapping
from functools import lru_cache

from ray.util.metrics import Counter, Gauge

from lafp.runs.side_channel import SideChannel
from lafp.storage.strict_json import defined

_CHANNEL = SideChannel("Ray's metrics")
_GAUGES = {
    "step": ("lafp_train_step", "optimizer steps done"),
    "loss": ("lafp_train_loss", "loss, mean since the last report"),
    "windows_per_s": ("lafp_train_windows_per_s", "windows per second over all workers"),
    "data_wait_share": ("lafp_train_data_wait_share", "share of the time spent waiting for clips"),
    "mfu": ("lafp_train_mfu", "model FLOPs utilization"),
    "probe/r2": ("lafp_train_probe_r2", "R2 of the linear probe from z to actions"),
}
_COUNTERS = {
    "lafp_preprocess_videos": "videos done",
    "lafp_preprocess_clips": "clips made",
    "lafp_preprocess_frames": "frames decoded into clips",
    "lafp_preprocess_rejects": "rejected spans, by reason",
}


def count_videos(
    source: str, num_videos: int, num_clips: int, num_frames: int, reasons: Mapping[str, int]
) -> None:
    """Adds the results of some videos to the counters.

    Args:
        source: Name of the shard set in the making.
        num_videos: Number of videos.
        num_clips: Number of clips made from the videos.
        num_frames: Number of frames in these clips.
        reasons: Reject reason -> number of spans.
    """
    totals = {
        "lafp_preprocess_videos": num_videos,
        "lafp_preprocess_clips": num_clips,
        "lafp_preprocess_frames": num_frames,
    }
    with _CHANNEL.guarded():
        for name, num in totals.items():
            if num:
                _counter(name).inc(num, tags=_tags(source=source))
        for reason, num in reasons.items():
            if num:
                tags = _tags(source=source, reason=reason)
                _counter("lafp_preprocess_rejects").inc(num, tags=tags)


def show_training(metrics: Mapping[str, float], run: str, stage: str) -> None:
    """Sets the gauges of a training job.

    Args:
        metrics: Latest value of each metric, by its name in ``metrics.jsonl``.
        run: The run's folder.
        stage: The stage's name, e.g. ``lam``.
    """
    with _CHANNEL.guarded():
        for name, value in defined(metrics).items():
            if name in _GAUGES:
                _gauge(name).set(value, tags=_tags(run=run, stage=stage))


def _tags(**names: str) -> dict[str, str]:
    """Escapes characters that are not ASCII, because Ray accepts only ASCII in tags."""
    return {tag: name.encode("ascii", "backslashreplace").decode() for tag, name in names.items()}


@lru_cache
def _counter(name: str) -> Counter:
    tags = ("source", "reason") if name == "lafp_preprocess_rejects" else ("source",)
    return Counter(name, description=_COUNTERS[name], tag_keys=tags)


@lru_cache
def _gauge(name: str) -> Gauge:
    exported, description = _GAUGES[name]
    return Gauge(exported, description=description, tag_keys=("run", "stage"))
