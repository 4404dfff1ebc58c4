"""What a source would become, from decoding a few of its videos. Writes nothing."""

import heapq
import time
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import EncodedClip, VideoItem, VideoRow
from data_pipelines.video_to_clips import video_to_clips
from lafp.progress import duration
from lafp.video import VIDEO_DECODERS

NUM_SAMPLED = 3
SAMPLE_TIMEOUT_S = 20.0
"""Per sampled video: a long one is judged by its beginning."""


def estimate(cfg: PreprocessConfig, items: Iterable[VideoItem]) -> list[str]:
    """Lines for ``--dry-run``: inputs, and clips, bytes and CPU time to expect."""
    num_videos = num_bytes = 0
    sample: list[tuple[int, str, VideoItem]] = []
    for item in items:
        num_videos += 1
        num_bytes += item.num_bytes
        # The items with the largest hashes: random, repeatable, and nothing else is remembered.
        ranked = int(sha256(item.uri.encode()).hexdigest()[:16], 16), item.uri, item
        (heapq.heappush if len(sample) < NUM_SAMPLED else heapq.heappushpop)(sample, ranked)
    lines = [f"inputs: {num_videos} videos, {num_bytes / 2**20:.1f} MiB"]
    return lines + _from_sample(cfg, [item for _, _, item in sample], num_videos)


def _from_sample(cfg: PreprocessConfig, sample: list[VideoItem], num_videos: int) -> list[str]:
    cfg = replace(cfg, limits=replace(cfg.limits, timeout_s=SAMPLE_TIMEOUT_S))
    decoder = VIDEO_DECODERS.get(cfg.decoder.name)(cfg.decoder)
    start = time.process_time()
    rows = [row for item in sample for row in video_to_clips(item, cfg, decoder)]
    cpu_s = time.process_time() - start
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    seconds = sum(row.duration_s for row in rows if isinstance(row, VideoRow))
    kept_s = sum(clip.record.end_s - clip.record.start_s for clip in clips)
    scale = num_videos / len(sample)
    return [
        f"sample: {len(sample)} videos of {seconds:.1f} s give {len(clips)} clips of "
        f"{kept_s:.1f} s and {len(rows) - len(clips) - len(sample)} rejects",
        f"expected: about {len(clips) * scale:.0f} clips, "
        f"{sum(len(clip.video) for clip in clips) * scale / 2**20:.1f} MiB, "
        f"{duration(cpu_s * scale)} of one core",
    ]
