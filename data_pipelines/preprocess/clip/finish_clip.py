"""Makes a stored clip of a clip's frames: measures, filters and encodes it."""

from dataclasses import replace

import numpy as np

from data_pipelines.preprocess.clip.encode import encode
from data_pipelines.preprocess.clip.labels.read import EpisodeLabels
from data_pipelines.preprocess.clip.masks import MaskReader
from data_pipelines.preprocess.clip.measure import motion, optical_flow, signature
from data_pipelines.preprocess.clip.pace import Pace
from data_pipelines.preprocess.clip.split_clips import ClipFrames
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import video_error
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip
from data_pipelines.preprocess.sources.opened import Opened
from lafp.data.shards.format import Labels


def finish_clip(
    clip: ClipFrames,
    pace: Pace,
    video: Opened,
    labels: EpisodeLabels | None,
    masks: MaskReader | None,
    cfg: PreprocessConfig,
) -> EncodedClip | RejectRow:
    """Measures, filters and encodes one clip."""
    fps = pace.fps
    # Motion, brightness and signature share these small pictures, so frames are scaled down once.
    small = motion.shrink(clip.frames)
    pairs = motion.pair_motion(small)
    clip_motion = motion.median_motion(small, fps, pace.picture_fps)
    mask, found = _mask(clip, masks)
    if found := found or motion.violation(small, clip_motion, cfg.filters):
        reason, detail = found
        return RejectRow(
            video_uri=video.uri,
            start_s=clip.start_s,
            end_s=clip.end_s,
            reason=reason,
            detail=detail,
        )
    # Rejected clips end before this, because encoding is the most expensive step.
    record, data = encode(
        clip,
        fps,
        clip_motion,
        motion.rounded(pairs),
        video_id=video.video_id,
        episode_id=video.episode_id or video.video_id,
        video_uri=video.uri,
        source=cfg.name,
        info=video.info,
        frames_per_picture=float(pace.hold),
        has_labels=labels is not None,
        has_mask=mask is not None,
        cfg=cfg.encode,
    )
    rows = labels.of_clip(clip.start_s, fps, clip.shown_s) if labels else None
    stored = rows
    if cfg.optical_flow is not None:
        vectors = optical_flow.optical_flow(clip.frames, cfg.optical_flow)
        stored = replace(rows or Labels(), optical_flow=vectors)
    if mask is not None:
        stored = replace(stored or Labels(), mask=mask)
    return EncodedClip(
        record=record,
        video=data,
        labels=stored,
        label_sums=labels.sums(rows) if labels and rows else None,
        signature=signature.signature(small, fps).to_hex() if cfg.filters.drop_duplicates else "",
    )


def _mask(
    clip: ClipFrames, masks: MaskReader | None
) -> tuple[np.ndarray | None, tuple[str, str] | None]:
    """Returns the packed masks of a clip, and reason and detail if they cannot be read."""
    try:
        return masks.of_clip(clip.shown_s) if masks else None, None
    except Exception as error:
        return None, ("bad_masks", video_error(error).detail)
