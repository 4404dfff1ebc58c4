"""Small shard sets, written record by record as preprocessing does."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lafp.data.shards.format import ClipRecord, Labels, ShardEntry, ShardSet, ShardWriter
from lafp.storage import strict_json
from lafp.video import EncodeConfig, encode_clip

FPS = 10.0
FLOW_SIZE_PX = (4, 4)


def moving_dot(num_frames: int, seed: int, size_px: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A bright dot on a dark ground that walks at random.

    Returns:
        Frames uint8 [T, H, W, 3] and the steps taken, float32 [T, 2] in pixels; the last is zero.
    """
    rng = np.random.default_rng(seed)
    steps = rng.integers(-2, 3, (num_frames, 2)).astype(np.float32)
    steps[-1] = 0
    start = rng.integers(0, size_px, 2)
    at = (start + np.concatenate([[[0, 0]], np.cumsum(steps[:-1], 0)])).astype(int) % size_px
    frames = np.full((num_frames, size_px, size_px, 3), 20, np.uint8)
    for frame, (y, x) in zip(frames, at, strict=True):
        frame[y, x] = (255, 255, 255)
        frame[(y + 1) % size_px, x] = (255, 200, 0)
    return frames, steps


def write_shard_set(
    folder: Path,
    num_clips: int = 12,
    clips_per_shard: int = 4,
    frames: tuple[int, int] = (6, 9),
    size_px: int = 16,
    has_labels: bool = False,
    split: str = "train",
    seed: int = 0,
    num_val_clips: int = 0,
    has_state: bool = False,
    has_flow: bool = False,
    has_masks: bool = False,
) -> str:
    """Writes a finished shard set of moving dots and returns its URI.

    Args:
        folder: Made where it is missing.
        num_clips: Clips in all.
        clips_per_shard: The last shard may hold fewer.
        frames: Shortest and longest clip.
        size_px: Height and width.
        has_labels: Whether the dot's steps are stored as true actions.
        split: Of every clip but the last ``num_val_clips``, which are of split ``val``.
        seed: Of the dots.
        num_val_clips: How many clips are held out.
        has_state: Whether labeled clips have states: what the dot is about to do, in odd units.
        has_flow: Whether the dot's steps are stored as optical flow too, alike everywhere.
        has_masks: Whether every second clip tells where the dot is.
    """
    lengths = np.random.default_rng(seed).integers(frames[0], frames[1] + 1, num_clips)
    lengths[0] = frames[1]
    clips = []
    for index, length in enumerate(lengths):
        pixels, steps = moving_dot(int(length), seed * 10_000 + index, size_px)
        is_held_out = index >= num_clips - num_val_clips
        clips.append(
            SyntheticClip(
                frames=pixels,
                true_action=steps if has_labels else None,
                state=1000 + 50 * steps if has_state else None,
                split="val" if is_held_out else split,
                optical_flow=constant_flow(steps) if has_flow else None,
                mask=packed_dot(pixels) if has_masks and index % 2 else None,
            )
        )
    return write_clips(folder, clips, clips_per_shard, seed, max_action=2.0)


@dataclass(frozen=True, kw_only=True)
class SyntheticClip:
    """Frames uint8 [T, H, W, 3], and actions float32 [T, A] or int64 [T] if labeled."""

    frames: np.ndarray
    true_action: np.ndarray | None
    split: str
    optical_flow: np.ndarray | None = None
    state: np.ndarray | None = None
    condition: np.ndarray | None = None
    action_noise: np.ndarray | None = None
    mask: np.ndarray | None = None


def packed_dot(frames: np.ndarray) -> np.ndarray:
    """Where frames are bright, as ``Labels.mask``."""
    return np.packbits(frames[..., 0] > 127, axis=2)


def constant_flow(steps: np.ndarray) -> np.ndarray:
    """Steps (y, x), float32 [T, 2] -> float16 [T - 1, 2, 4, 4], along x and y."""
    along_xy = steps[:-1, ::-1, None, None].astype(np.float16)
    return np.tile(along_xy, (1, 1, *FLOW_SIZE_PX))


def damage_clips(
    shards: str, split: str = "val", num: int | None = None, only: frozenset[int] | None = None
) -> None:
    """Flips a bit in clips of a split: the first ``num``, or those with a key in ``only``."""
    damaged = 0
    for path in sorted(Path(shards).glob(f"{split}-*.json")):
        with path.with_suffix(".tar").open("r+b") as tar:
            for clip in strict_json.read(ShardEntry, str(path)).clips:
                if (num is None or damaged < num) and (only is None or clip.key in only):
                    at = clip.video_offset + clip.video_bytes - 3
                    tar.seek(at)
                    byte = tar.read(1)[0]
                    tar.seek(at)
                    tar.write(bytes([byte ^ 1]))
                    damaged += 1


def write_clips(
    folder: Path, clips: list[SyntheticClip], clips_per_shard: int, seed: int, max_action: float
) -> str:
    """Writes a finished shard set of clips of one size and returns its URI.

    Args:
        folder: Made where it is missing.
        clips: All labeled, or none.
        clips_per_shard: The last shard of a split may hold fewer.
        seed: Of the clip ids.
        max_action: Bound of the actions, in every dimension.
    """
    folder.mkdir(parents=True, exist_ok=True)
    indices = range(len(clips))
    of_split = {
        split: [i for i in indices if clips[i].split == split]
        for split in dict.fromkeys(clip.split for clip in clips)
    }
    shards = [
        (split, members[first : first + clips_per_shard])
        for split, members in of_split.items()
        for first in range(0, len(members), clips_per_shard)
    ]
    entries, records, shard_of = [], [], []
    for split, members in shards:
        name = f"{split}-{len(entries):06d}.tar"
        writer = ShardWriter(folder / name)
        for index in members:
            clip = clips[index]
            video = encode_clip(clip.frames, FPS, EncodeConfig(crf=0, pixel_format="yuv444p"))
            has_arrays = any(
                array is not None for array in (clip.true_action, clip.optical_flow, clip.mask)
            )
            labels = (
                Labels(
                    true_action=clip.true_action,
                    state=clip.state,
                    condition=clip.condition,
                    action_noise=clip.action_noise,
                    optical_flow=clip.optical_flow,
                    mask=clip.mask,
                )
                if has_arrays
                else None
            )
            records.append(_record(seed, index, clip, len(video)))
            shard_of.append(name)
            writer.add(records[-1], video, labels)
        writer.close()
        entry = ShardEntry(
            shard=name,
            split=split,
            num_clips=len(writer.clips),
            num_frames=sum(clip.num_frames for clip in writer.clips),
            num_bytes=(folder / name).stat().st_size,
            sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            clips=tuple(writer.clips),
        )
        strict_json.write(str(folder / name.replace(".tar", ".json")), entry)
        entries.append(entry)
    rows = [asdict(r) | {"shard": s} for r, s in zip(records, shard_of, strict=True)]
    (folder / "clips").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips/part-00000.parquet")
    _write_set(folder, entries, clips, max_action)
    return str(folder)


def _write_set(folder, entries, clips, max_action) -> None:
    columns = ("shard", "split", "num_clips", "num_frames", "num_bytes", "sha256")
    rows = [{name: getattr(entry, name) for name in columns} for entry in entries]
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    lengths = [len(clip.frames) for clip in clips]
    spec = ShardSet(
        source="synthetic",
        width_px=clips[0].frames.shape[2],
        height_px=clips[0].frames.shape[1],
        fps=FPS,
        num_clips=_totals(entries, "num_clips"),
        num_frames=_totals(entries, "num_frames"),
        num_hours=sum(lengths) / FPS / 3600,
        min_clip_frames=min(lengths),
        max_clip_frames=max(lengths),
        num_clip_files=1,
        num_masked_clips=dict(Counter(clip.split for clip in clips if clip.mask is not None)),
        action=_action(clips, max_action),
        optical_flow_size_px=None
        if clips[0].optical_flow is None
        else list(clips[0].optical_flow.shape[2:]),
    )
    strict_json.write(str(folder / "shard_set.json"), spec)


def _action(clips, max_action) -> dict | None:
    if clips[0].true_action is None:
        return None
    rows = np.concatenate([clip.true_action[:-1] for clip in clips])
    if rows.dtype == np.int64:
        return {"dim": int(rows.max()) + 1, "is_discrete": True, "low": [], "high": []}
    dim = rows.shape[1]
    bounds = {"low": [-max_action] * dim, "high": [max_action] * dim}
    statistics = {"mean": rows.mean(0).tolist(), "std": rows.std(0).tolist()}
    return {"dim": dim, "is_discrete": False, **bounds, **statistics}


def _totals(entries, field) -> dict[str, int]:
    totals = Counter()
    for entry in entries:
        totals[entry.split] += getattr(entry, field)
    return dict(totals)


def _record(seed, index, clip, num_bytes) -> ClipRecord:
    clip_id = hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:32]
    num_frames, height, width = clip.frames.shape[:3]
    return ClipRecord(
        clip_id=clip_id,
        video_id=clip_id,
        video_uri=f"synthetic/{index}.mp4",
        source="synthetic",
        episode_id=clip_id,
        split=clip.split,
        start_s=0.0,
        end_s=num_frames / FPS,
        fps=FPS,
        width_px=width,
        height_px=height,
        num_frames=num_frames,
        source_fps=FPS,
        source_width_px=width,
        source_height_px=height,
        source_codec="h264",
        motion=0.1,
        has_labels=clip.true_action is not None,
        has_mask=clip.mask is not None,
        num_bytes=num_bytes,
    )
