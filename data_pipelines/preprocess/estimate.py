"""Estimates the result and cost of preprocessing a source by decoding a sample. Writes nothing."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from hashlib import sha256

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.estimate_sample import Estimated, Sample, draw
from data_pipelines.preprocess.label_kinds import LabelKinds
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    LongVideo,
    Row,
    VideoItem,
    VideoRow,
    rows_that_count,
)
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from lafp import machine
from lafp.http.host_gate import HostGate
from lafp.runs.progress import duration
from lafp.runs.wording import byte_size, counted, number

MIN_SAMPLED, MAX_SAMPLED = 24, 256
CLOSE_ENOUGH = 1.2
"""Sampling stops once work and number of clips are known within this factor."""
BUDGET_CPU_S, BUDGET_S = 60.0, 150.0
"""Sampling also stops after this much CPU time or wall-clock time (downloads or a busy machine can
be slow), once at least ``MIN_IN_TIME`` inputs are measured."""
MIN_IN_TIME = 8
PIECE_S = 60.0
"""From a longer video, only one piece of about this length is decoded."""
TIMEOUT_S = 20.0
"""Time-out per piece. The part of a slow piece that was decoded by then stands for all of it."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Holds the cost and yield of one input, extrapolated to its end where a part was decoded."""

    cpu_s: float
    num_clips: float
    clip_s: float
    clip_bytes: float
    video_s: float

    def plus(self, other: "_Measured", share: float) -> "_Measured":
        """Adds measurements of a part that is ``share`` of the video, scaled up to the whole."""
        sums = (a + b / share for a, b in zip(astuple(self), astuple(other), strict=True))
        return _Measured(**dict(zip(vars(self), sums, strict=True)))


def estimate(cfg: PreprocessConfig, items: Iterable[VideoItem]) -> list[str]:
    """Returns lines for ``--dry-run``: inputs, expected hours, clips, shards, bytes and CPU time.

    They also warn of labels that a job would reject or refuse, as far as the sample shows them.
    """
    sample, kinds = draw(items, MAX_SAMPLED), LabelKinds()
    measured = _measure(cfg, sample, kinds)
    video_s = sum(one.video_s for one in measured)
    num_clips = sum(one.num_clips for one in measured)
    which = "all of them" if len(measured) == sample.num_inputs else f"{len(measured)} of them"
    return [
        f"inputs: {counted(sample.num_inputs, 'video')}, {byte_size(sample.num_bytes)}",
        f"sample: {which}, {duration(video_s)} of video, give {counted(round(num_clips), 'clip')}",
        *_expected(cfg, sample, measured),
        *kinds.warnings(),
    ]


def _measure(cfg: PreprocessConfig, sample: Sample, kinds: LabelKinds) -> list[_Measured]:
    """Decodes inputs of the sample until enough is known, or the time is up.

    Args:
        cfg: The job's config.
        sample: Sample of the listing.
        kinds: Gets the kinds of labels that the sample holds.
    """
    cfg = replace(
        cfg,
        limits=replace(cfg.limits, timeout_s=min(TIMEOUT_S, cfg.limits.timeout_s)),
        # A piece shorter than the longest clip is refused by the config.
        piece_s=min(cfg.piece_s, max(PIECE_S, cfg.clip.max_s)),
    )
    measured: list[_Measured] = []
    start = time.monotonic()
    with Sandbox(cfg, HostGate()) as sandbox:
        for item in sample.items:
            measured.append(_measure_one(sandbox, item, kinds))
            is_late = sandbox.cpu_s > BUDGET_CPU_S or time.monotonic() - start > BUDGET_S
            if _is_enough(sample, measured, is_late):
                break
    return measured


def _is_enough(sample: Sample, measured: list[_Measured], is_late: bool) -> bool:
    if is_late and len(measured) >= MIN_IN_TIME:
        return True
    found = (_total(sample, measured, name) for name in ("cpu_s", "num_clips"))
    return len(measured) >= MIN_SAMPLED and max(one.factor for one in found) <= CLOSE_ENOUGH


def _measure_one(sandbox: Sandbox, item: VideoItem, kinds: LabelKinds) -> _Measured:
    before_s = sandbox.cpu_s
    rows = rows_that_count(sandbox.rows(item, may_defer=True))
    opened_s = sandbox.cpu_s - before_s
    long_video = next((row for row in rows if isinstance(row, LongVideo)), None)
    if long_video is None:
        return _of_rows(rows, opened_s, kinds)
    spans_s = long_video.spans_s
    # A piece chosen by hash, not the first one: videos often begin with titles.
    piece = int(sha256(item.uri.encode(errors="surrogateescape")).hexdigest(), 16) % len(spans_s)
    before_s = sandbox.cpu_s
    rows = rows_that_count(sandbox.rows(replace(item, piece=piece)))
    decoded_s = max(0.0, sandbox.cpu_s - before_s - opened_s)  # the video was opened a second time
    share = (spans_s[piece][1] - spans_s[piece][0]) / long_video.video.duration_s
    opened = _Measured(cpu_s=opened_s, num_clips=0.0, clip_s=0.0, clip_bytes=0.0, video_s=0.0)
    return opened.plus(_of_rows(rows, decoded_s, kinds), share)


def _of_rows(rows: list[Row], cpu_s: float, kinds: LabelKinds) -> _Measured:
    video_s = sum(row.covered_s for row in rows if isinstance(row, VideoRow))
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    for clip in clips:
        kinds.add_clip(clip.label_sums, clip.record.video_uri)
    late = [row for row in rows if isinstance(row, RejectRow) and row.reason == "timeout"]
    left_s = sum(row.end_s - row.start_s for row in late)
    scale = video_s / (video_s - left_s) if video_s > left_s else 1.0
    return _Measured(
        cpu_s=scale * cpu_s,
        num_clips=scale * len(clips),
        clip_s=scale * sum(clip.record.end_s - clip.record.start_s for clip in clips),
        clip_bytes=scale * sum(len(clip.video) for clip in clips),
        video_s=video_s,
    )


def _total(sample: Sample, measured: list[_Measured], name: str) -> Estimated:
    return sample.estimate([getattr(one, name) for one in measured])


def _expected(cfg: PreprocessConfig, sample: Sample, measured: list[_Measured]) -> list[str]:
    total = {name: _total(sample, measured, name) for name in vars(measured[0])}
    work, clips = total["cpu_s"], total["num_clips"]
    before = ", before duplicates are dropped" if cfg.filters.drop_duplicates else ""
    cpu_h = work.mean / 3600
    lines = [
        f"expected: about {duration(total['video_s'].mean)}"
        f"{_range(total['video_s'], duration)} of video; "
        f"{counted(round(clips.mean), 'clip')}{_range(clips, lambda n: f'{n:,.0f}')} of "
        f"{duration(total['clip_s'].mean)} in "
        f"{counted(_num_shards(cfg, total['clip_bytes'].mean), 'shard')} of "
        f"{byte_size(total['clip_bytes'].mean)}{before}",
        f"work: about {duration(work.mean)}{_range(work, duration)} on one core of this machine, "
        f"{number(cpu_h)} CPU hours",
    ]
    if cfg.deadline_h is not None:
        num_cores = machine.num_cpus()
        num_nodes = max(1, math.ceil(cpu_h / (cfg.deadline_h * num_cores)))
        lines.append(
            f"nodes: {num_nodes} of {counted(num_cores, 'core')} to be done in {cfg.deadline_h:g} h"
        )
    return lines


def _range(found: Estimated, written: Callable[[float], str]) -> str:
    """Formats the interval in parentheses; empty if every input was measured."""
    if found.factor == 1:
        return ""
    return f" ({written(found.low)} to {written(found.high)})"


def _num_shards(cfg: PreprocessConfig, num_bytes: float) -> int:
    shares = (1.0,) if not cfg.val_fraction else (1 - cfg.val_fraction, cfg.val_fraction)
    return sum(math.ceil(share * num_bytes / cfg.shards.max_bytes) for share in shares)
