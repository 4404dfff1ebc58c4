"""Encodes a clip in memory and makes its record."""

import hashlib

from data_pipelines.preprocess.clip.split_clips import ClipFrames
from lafp.data.shards.format import ClipRecord
from lafp.video import EncodeConfig, encode_clip
from lafp.video.decoders.base import VideoInfo


def clip_id(video_id: str, start_s: float, end_s: float) -> str:
    """Hashes the source video's content and the clip's span in milliseconds to 32 hex digits."""
    # Whole milliseconds, so that rounding errors of the times do not change the id.
    span = f"{video_id} {round(1000 * start_s)} {round(1000 * end_s)}"
    return hashlib.sha256(span.encode()).hexdigest()[:32]


def encode(
    clip: ClipFrames,
    fps: float,
    motion: float,
    pair_motion: tuple[int, ...],
    *,
    video_id: str,
    episode_id: str,
    video_uri: str,
    source: str,
    info: VideoInfo,
    frames_per_picture: float,
    has_labels: bool,
    has_mask: bool,
    cfg: EncodeConfig,
) -> tuple[ClipRecord, bytes]:
    """Encodes one clip.

    Returns:
        The clip's record, its split not yet decided, and the bytes of its mp4.
    """
    data = encode_clip(clip.frames, fps, cfg)
    num_frames, height, width = clip.frames.shape[:3]
    record = ClipRecord(
        clip_id=clip_id(video_id, clip.start_s, clip.end_s),
        video_id=video_id,
        video_uri=video_uri,
        source=source,
        episode_id=episode_id,
        # Splits are assigned when all videos are known (`select`), because copies must share one.
        split="train",
        start_s=clip.start_s,
        end_s=clip.end_s,
        fps=fps,
        width_px=width,
        height_px=height,
        num_frames=num_frames,
        source_fps=info.fps,
        source_width_px=info.width_px,
        source_height_px=info.height_px,
        source_codec=info.codec,
        motion=motion,
        pair_motion=pair_motion,
        frames_per_picture=frames_per_picture,
        has_labels=has_labels,
        has_mask=has_mask,
        num_bytes=len(data),
    )
    return record, data
