"""What the whole source decides, once all videos are gone through: duplicates and splits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_pipelines.config import PreprocessConfig
from data_pipelines.rejects import RejectRow
from data_pipelines.rows import ClipRow, PartRows, VideoRow
from data_pipelines.stages.dedup import find_duplicates
from data_pipelines.stages.write_shards import with_split
from lafp.data.shard_format import Split


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Every span of every video, in a clip or in a reject."""

    videos: tuple[VideoRow, ...]
    clips: tuple[ClipRow, ...]
    rejects: tuple[RejectRow, ...]


def select_clips(parts: Iterable[PartRows], cfg: PreprocessConfig) -> Selection:
    """Drops repeated files and near-duplicate clips, and assigns splits.

    Args:
        parts: In the order of the listing: earlier videos are kept, later ones dropped.
        cfg: The job's config.
    """
    videos: list[VideoRow] = []
    clips: list[ClipRow] = []
    rejects: list[RejectRow] = []
    first_uri: dict[str, str] = {}
    for part in parts:
        repeated = set()
        for video in part.videos:
            videos.append(video)
            first = first_uri.setdefault(video.video_id, video.uri) if video.video_id else video.uri
            if first != video.uri:
                repeated.add(video.uri)
                rejects.append(
                    RejectRow(
                        video_uri=video.uri,
                        start_s=0.0,
                        end_s=video.duration_s,
                        reason="same_file",
                        detail=first,
                    )
                )
        clips += [clip for clip in part.clips if clip.record.video_uri not in repeated]
        rejects += [row for row in part.rejects if row.video_uri not in repeated]
    if cfg.filters.drop_duplicates:
        clips, duplicates = _drop_duplicates(clips)
        rejects += duplicates
    with_clips = {clip.record.video_uri for clip in clips}
    split_of = assign_splits([video for video in videos if video.uri in with_clips], cfg)
    clips = [with_split(clip, split_of[clip.record.episode_id]) for clip in clips]
    return Selection(videos=tuple(videos), clips=tuple(clips), rejects=tuple(rejects))


def assign_splits(videos: Sequence[VideoRow], cfg: PreprocessConfig) -> dict[str, Split]:
    """Episode id -> split, for the videos that gave clips. A video alone is an episode.

    A video whose source was given for a split goes there; else the hash of its content decides,
    so that a video keeps its split when others come or go. If no hash falls below
    ``val_fraction``, the lowest one is held out. Cameras of one episode stay together.
    """
    splits: dict[str, Split] = {_episode(v): v.split for v in videos if v.split is not None}
    free = sorted({_episode(v) for v in videos if v.split is None})
    held_out = {episode_id for episode_id in free if _uniform(episode_id) < cfg.val_fraction}
    if cfg.val_fraction and not held_out and len(free) > 1:
        held_out = {free[0]}
    return splits | {
        episode_id: "val" if episode_id in held_out else "train" for episode_id in free
    }


def _episode(video: VideoRow) -> str:
    return video.episode_id or video.video_id


def _uniform(episode_id: str) -> float:
    """The hash as a number in [0, 1)."""
    return int(episode_id[:13], 16) / 16**13


def _drop_duplicates(clips: Sequence[ClipRow]) -> tuple[list[ClipRow], list[RejectRow]]:
    duplicates = find_duplicates((clip.record.clip_id, clip.signature) for clip in clips)
    uris = {clip.record.clip_id: clip.record.video_uri for clip in clips}
    rejects = []
    for clip in clips:
        record = clip.record
        if original := duplicates.get(record.clip_id):
            rejects.append(
                RejectRow(
                    video_uri=record.video_uri,
                    start_s=record.start_s,
                    end_s=record.end_s,
                    reason="near_duplicate",
                    detail=f"clip {original} of {uris[original]}",
                )
            )
    return [clip for clip in clips if clip.record.clip_id not in duplicates], rejects
