"""One input, all stages: file -> frames -> clips and rejects. No Ray, bounded memory."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipelines.config import PreprocessConfig
from data_pipelines.rejects import RejectRow
from data_pipelines.rows import EncodedClip, Row, VideoItem, VideoRow
from data_pipelines.stages import dedup, motion, probe
from data_pipelines.stages.encode import encode
from data_pipelines.stages.read_labels import (
    EpisodeLabels,
    LabelsConfig,
    check_belong,
    read_sidecar,
    read_stacked,
)
from data_pipelines.stages.resample import Cut, resample
from data_pipelines.stages.resize import crop_or_pad, scaled_size
from data_pipelines.stages.split_clips import MAX_OWN_FPS, ClipFrames, split_clips
from lafp import storage
from lafp.video.array_video import array_frames, array_info
from lafp.video.decoder import DamagedSpan, DecodedFrame, VideoDecoder, VideoError, VideoInfo

# A header that promises this much more than the file holds is no rounding.
_TRUNCATED_S = 0.5


def video_to_clips(item: VideoItem, cfg: PreprocessConfig, decoder: VideoDecoder) -> Iterator[Row]:
    """Goes through one input.

    Per video (a file of stacked episodes holds several) it yields one ``VideoRow``, then clips and
    rejects that together cover its seconds. A bad file is rows too, never an exception.

    Raises:
        StorageError: S3 did not answer; the job can be resumed.
    """
    deadline = time.monotonic() + cfg.limits.timeout_s
    with ExitStack() as stack:
        try:
            if item.num_bytes > cfg.limits.max_bytes:
                raise VideoError("too_many_bytes", f"{item.num_bytes} bytes")
            path = stack.enter_context(storage.local_file(item.uri))
            videos = _open(item, path, cfg, decoder, deadline)
        except VideoError as error:
            yield from _rejected_file(item, error.reason, error.detail)
        except (FileNotFoundError, PermissionError) as error:
            yield from _rejected_file(item, "unreadable", str(error))
        else:
            for video in videos:
                yield from _one_video(video, cfg, item)


def content_hash(path: Path) -> str:
    """32 hex digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class _Video:
    """One probed video, ready to be decoded."""

    uri: str
    video_id: str
    num_bytes: int
    info: VideoInfo
    frames: Callable[[int, int], Iterator[DecodedFrame | DamagedSpan]]
    """Width, height -> what a decoder yields."""
    labels: Callable[[], EpisodeLabels] | None


def _open(
    item: VideoItem, path: Path, cfg: PreprocessConfig, decoder: VideoDecoder, deadline: float
) -> list[_Video]:
    if cfg.labels is not None and item.labels_uri == item.uri:
        return list(_stacked(item, path, cfg.labels))
    video_id = content_hash(path)
    try:
        info = decoder.probe(str(path), cfg.limits.max_pixels, deadline)
    except VideoError:
        raise
    except Exception as error:  # a bad file is data: no decoder may stop the job
        raise VideoError("does_not_decode", f"{type(error).__name__}: {error}") from error
    video = _Video(
        uri=item.uri,
        video_id=video_id,
        num_bytes=item.num_bytes,
        info=info,
        frames=lambda width, height: decoder.frames(str(path), info, width, height, deadline),
        labels=(
            partial(read_sidecar, item.labels_uri, cfg.labels)
            if cfg.labels is not None and item.labels_uri is not None
            else None
        ),
    )
    return [video]


def _stacked(item: VideoItem, path: Path, cfg: LabelsConfig) -> Iterator[_Video]:
    for index, (frames, labels) in enumerate(read_stacked(path, cfg)):
        yield _Video(
            uri=f"{item.uri}#{index}",
            video_id=hashlib.sha256(frames.tobytes()).hexdigest()[:32],
            num_bytes=frames.nbytes,
            info=array_info(frames, cfg.fps),
            frames=partial(array_frames, frames, cfg.fps),
            labels=partial(_same, labels),
        )


def _same(labels: EpisodeLabels) -> EpisodeLabels:
    return labels


def _rejected_file(item: VideoItem, reason: str, detail: str) -> Iterator[Row]:
    yield VideoRow(
        uri=item.uri, video_id="", split=item.split, num_bytes=item.num_bytes, duration_s=0.0
    )
    yield RejectRow(video_uri=item.uri, start_s=0.0, end_s=0.0, reason=reason, detail=detail)


def _one_video(video: _Video, cfg: PreprocessConfig, item: VideoItem) -> Iterator[Row]:
    info = video.info
    is_truncated = info.declared_duration_s - info.duration_s > _TRUNCATED_S
    total_s = info.declared_duration_s if is_truncated else info.duration_s
    yield VideoRow(
        uri=video.uri,
        video_id=video.video_id,
        split=item.split,
        num_bytes=video.num_bytes,
        duration_s=total_s,
    )
    reject = partial(RejectRow, video_uri=video.uri)
    fps = cfg.clip.fps or min(info.fps, MAX_OWN_FPS)
    try:
        if found := probe.violation(info, cfg.limits):
            raise VideoError(*found)
        labels = video.labels() if video.labels else None
        if labels is not None:
            check_belong(labels, info, fps)
    except VideoError as error:
        yield reject(start_s=0.0, end_s=total_s, reason=error.reason, detail=error.detail)
        return
    for span in _spans(video, fps, cfg):
        if isinstance(span, Cut):
            yield reject(
                start_s=span.start_s, end_s=span.end_s, reason=span.reason, detail=span.detail
            )
        else:
            yield _finish_clip(span, fps, video, labels, cfg)
    if is_truncated:
        detail = f"the header promises {total_s:.3f} s, the file ends at {info.duration_s:.3f} s"
        yield reject(start_s=info.duration_s, end_s=total_s, reason="truncated", detail=detail)


def _spans(video: _Video, fps: float, cfg: PreprocessConfig) -> Iterator[ClipFrames | Cut]:
    """Clips and cuts that cover the video. Whatever a decoder does becomes a cut."""
    info, covered_s = video.info, 0.0
    ticks = resample(
        video.frames(*scaled_size(info, cfg.resize)),
        fps=fps,
        source_fps=info.fps,
        duration_s=info.duration_s,
        max_hold_s=cfg.clip.max_hold_s,
    )
    try:
        fit = partial(crop_or_pad, cfg=cfg.resize)
        for span in split_clips(ticks, fps, info.duration_s, cfg.clip, fit):
            yield span
            covered_s = span.end_s
    except Exception as error:  # as above
        yield Cut(covered_s, info.duration_s, "damaged", f"{type(error).__name__}: {error}")


def _finish_clip(
    clip: ClipFrames, fps: float, video: _Video, labels: EpisodeLabels | None, cfg: PreprocessConfig
) -> EncodedClip | RejectRow:
    """Measures, filters and encodes one clip."""
    small = motion.shrink(clip.frames)
    clip_motion = motion.median_motion(small, fps, video.info.fps)
    if found := motion.violation(small, clip_motion, cfg.filters):
        reason, detail = found
        return RejectRow(
            video_uri=video.uri,
            start_s=clip.start_s,
            end_s=clip.end_s,
            reason=reason,
            detail=detail,
        )
    record, data = encode(
        clip,
        fps,
        clip_motion,
        video_id=video.video_id,
        video_uri=video.uri,
        source=cfg.name,
        info=video.info,
        has_labels=labels is not None,
        cfg=cfg.encode,
    )
    rows = labels.of_clip(clip.start_s, record.num_frames, fps) if labels else None
    return EncodedClip(
        record=record,
        video=data,
        labels=rows,
        label_sums=labels.sums(rows) if labels and rows else None,
        signature=dedup.signature(small) if cfg.filters.drop_duplicates else "",
    )
