"""What a source would become, from decoding a few of its videos. Writes nothing."""

import heapq
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

from data_pipelines.config import PreprocessConfig
from data_pipelines.rejects import RejectRow
from data_pipelines.rows import EncodedClip, Row, VideoItem, VideoRow, settled
from data_pipelines.sandbox import Sandbox
from lafp.host_gate import HostGate
from lafp.progress import duration

NUM_SAMPLED = 8
SAMPLE_TIMEOUT_S = 20.0
"""Per sampled input: a long one is judged by its beginning."""


@dataclass
class _Totals:
    """Of the sample, or of what the source is expected to give."""

    video_s: float = 0.0
    clip_s: float = 0.0
    num_clips: float = 0.0
    num_bytes: float = 0.0
    cpu_s: float = 0.0

    def add(self, rows: list[Row], cpu_s: float) -> None:
        """Adds an input, as if it had been gone through to its end."""
        video_s = sum(row.duration_s for row in rows if isinstance(row, VideoRow))
        clips = [row for row in rows if isinstance(row, EncodedClip)]
        rejects = [row for row in rows if isinstance(row, RejectRow) and row.reason == "timeout"]
        left_s = sum(row.end_s - row.start_s for row in rejects)
        scale = video_s / (video_s - left_s) if video_s > left_s else 1.0
        self.video_s += video_s
        self.clip_s += scale * sum(clip.record.end_s - clip.record.start_s for clip in clips)
        self.num_clips += scale * len(clips)
        self.num_bytes += scale * sum(len(clip.video) for clip in clips)
        self.cpu_s += scale * cpu_s


def estimate(cfg: PreprocessConfig, items: Iterable[VideoItem]) -> list[str]:
    """Lines for ``--dry-run``: inputs, and hours, clips, shards, bytes and CPU time to expect."""
    num_inputs = num_bytes = 0
    sample: list[tuple[int, str, VideoItem]] = []
    for item in items:
        num_inputs += 1
        num_bytes += item.num_bytes
        # The items with the largest hashes: random, repeatable, and nothing else is remembered.
        ranked = int(sha256(item.uri.encode()).hexdigest()[:16], 16), item.uri, item
        (heapq.heappush if len(sample) < NUM_SAMPLED else heapq.heappushpop)(sample, ranked)
    sampled = [item for _, _, item in sample]
    totals = _go_through(cfg, sampled)
    # Long videos are large: bytes tell more than numbers, where the listing knows them.
    sampled_bytes = sum(item.num_bytes for item in sampled)
    is_sized = sampled_bytes and all(item.num_bytes for item in sampled)
    scale = num_bytes / sampled_bytes if is_sized else num_inputs / len(sampled)
    return [
        f"inputs: {num_inputs} videos, {num_bytes / 2**20:.1f} MiB",
        f"sample: {len(sampled)} videos of {duration(totals.video_s)} give "
        f"{totals.num_clips:.0f} clips of {duration(totals.clip_s)}",
        *_expected(cfg, totals, scale),
    ]


def _go_through(cfg: PreprocessConfig, items: list[VideoItem]) -> _Totals:
    cfg = replace(cfg, limits=replace(cfg.limits, timeout_s=SAMPLE_TIMEOUT_S))
    totals = _Totals()
    with Sandbox(cfg, HostGate()) as sandbox:
        for item in items:
            before_s = sandbox.cpu_s
            rows = settled(sandbox.rows(item))
            totals.add(rows, sandbox.cpu_s - before_s)
    return totals


def _expected(cfg: PreprocessConfig, totals: _Totals, scale: float) -> list[str]:
    num_bytes, cpu_h = totals.num_bytes * scale, totals.cpu_s * scale / 3600
    num_shards = math.ceil(num_bytes / cfg.shards.max_bytes)
    lines = [
        f"expected: about {duration(totals.video_s * scale)} of video, "
        f"{totals.num_clips * scale:.0f} clips of {duration(totals.clip_s * scale)}, "
        f"{num_shards} shards of {num_bytes / 2**20:.1f} MiB",
        f"work: about {duration(cpu_h * 3600)} of one core like these ({cpu_h:.3g} CPU hours)",
    ]
    if cfg.deadline_h is not None:
        num_cores = os.cpu_count() or 1
        num_nodes = max(1, math.ceil(cpu_h / (cfg.deadline_h * num_cores)))
        lines.append(f"nodes: {num_nodes} of {num_cores} cores to be done in {cfg.deadline_h:g} h")
    return lines
