"""Defines the format of shards, which preprocessing writes and training reads.

A **shard set** is one preprocessed source, a folder (local or S3)::

    shard_set.json         ShardSet: frame size, fps, action spec, totals
    manifest.parquet       one row per shard (ShardEntry without its clips)
    clips/part-00000.parquet    one row per clip (ClipRecord), in files of at most 500,000 rows
    rejects.parquet        one row per span that became no clip, with the reason
    train-000000.tar       a WebDataset shard: per clip <clip_id>.mp4, <clip_id>.json and,
                           with labels, optical flow or masks, <clip_id>.npz (true_action,
                           state, action_noise, condition, optical_flow, mask)
    train-000000.json      ShardEntry: checksum, counts, and where each clip lies in the tar
    train-000000.signatures.parquet    if near-duplicates were dropped: what each clip looks like

A shard is complete once its ``.json`` entry exists; tar and signatures are renamed into place
before it. Needs no torch, because preprocessing workers import it.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lafp.storage import strict_json

Split = Literal["train", "val"]
_SHARD_NAME = re.compile(r"\w[\w.-]*\.tar", re.ASCII)
# Readers reserve memory for the longest clip of a set, at the size that the set claims.
_MAX_SIDE_PX, _MAX_DECODED_BYTES = 2**14, 2**36
VIDEO_SUFFIX, META_SUFFIX, LABELS_SUFFIX = "mp4", "json", "npz"


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """Holds everything measured about one clip: its row in ``clips/`` and its ``.json``."""

    clip_id: str
    """32 hex digits: hash of the source video's content and the clip's span."""
    video_id: str
    """32 hex digits: hash of the source video's content."""
    video_uri: str
    source: str
    """Name of the video's source."""
    episode_id: str
    """Id that all clips of one episode share (several cameras, several spans); else the video's
    id."""
    split: Split
    start_s: float
    """Start of the span in the source video, in seconds of presentation time."""
    end_s: float
    fps: float
    """True frames per second of the clip: its frames lie 1/fps apart in presentation time."""
    width_px: int
    height_px: int
    num_frames: int
    source_fps: float
    source_width_px: int
    """Width of the upright picture, after rotation."""
    source_height_px: int
    source_codec: str
    motion: float
    """Median over neighbouring frames of the mean absolute difference, in [0, 1]."""
    has_labels: bool
    num_bytes: int
    """Size of the encoded clip."""
    frames_per_picture: float = 1.0
    """Number of source frames that show each picture, if repeats were dropped: 1.25 for 24 pictures
    in 30 frames."""
    pair_motion: tuple[int, ...] = ()
    """Mean absolute difference of frames t and t+1 for each t, in 1/10,000 of the unit of
    ``motion``. Training may sample frame pairs by it."""
    has_mask: bool = False
    """Whether the agent's pixels are stored with the clip."""


@dataclass(frozen=True, kw_only=True)
class ClipLocation:
    """Locates a clip in its shard by byte ranges, so that one ranged read gets one clip."""

    clip_id: str
    num_frames: int
    video_offset: int
    video_bytes: int
    labels_offset: int = 0
    labels_bytes: int = 0
    crc32: int | None = None
    """CRC-32 of the video's bytes followed by the labels'. None in sets that were written
    without."""

    def __post_init__(self) -> None:
        clip_key(self.clip_id)

    @property
    def key(self) -> int:
        """Returns 63 bits of the clip id, for keyed random draws."""
        return clip_key(self.clip_id)


def clip_key(clip_id: str) -> int:
    """Returns 63 bits of a clip id.

    Raises:
        ValueError: It does not begin with hex digits.
    """
    # One bit less than 16 digits hold, because batches carry keys as int64.
    return int(clip_id[:16], 16) >> 1


def id_prefix(key: int) -> str:
    """Returns the first 15 hex digits of the id of the clip with this key."""
    # The key has lost a bit of the 16th digit.
    return f"{key << 1:016x}"[:15]


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """Describes one complete shard."""

    shard: str
    """File name of the tar, e.g. ``train-000000.tar``."""
    split: Split
    num_clips: int
    num_frames: int
    num_bytes: int
    sha256: str
    clips: tuple[ClipLocation, ...]

    def __post_init__(self) -> None:
        check_shard_name(self.shard)


def check_shard_name(name: str) -> str:
    """Returns a shard's name after checking it, because files of this name are read and deleted.

    Raises:
        ValueError: It is no plain file name that ends in ``.tar``.
    """
    if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a shard, such as train-000000.tar")
    return name


def entry_name(tar: str) -> str:
    """Names the ``.json`` that says that a shard, its latents or a part are complete."""
    return tar.removesuffix(".tar") + ".json"


def latents_name(tar: str) -> str:
    """Names the array in a latent set that holds the latents of a shard."""
    return tar.removesuffix(".tar") + ".npy"


def signatures_name(tar: str) -> str:
    """Names the table beside a shard, or a part, that holds the signatures of its clips."""
    return tar.removesuffix(".tar") + ".signatures.parquet"


def mask_shape(num_frames: int, height_px: int, width_px: int) -> tuple[int, int, int]:
    """Returns the shape of the packed masks of a clip, ``Labels.mask``."""
    return num_frames, height_px, -(-width_px // 8)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Holds arrays of one clip: its labels, optical flow from preprocessing, and masks."""

    true_action: np.ndarray | None = None
    """float32 [T, A] in the environment's units (discrete: int64 [T]). Row t acts between frames t
    and t+1; the last row belongs to no pair of the clip."""
    state: np.ndarray | None = None
    """float32 [T, S]."""
    action_noise: np.ndarray | None = None
    """float32 [T, A]: the part of ``true_action`` that is a demonstrator's exploration noise."""
    condition: np.ndarray | None = None
    """float32 [G], one for the whole clip: a task id, or the embedding of a text or a goal."""
    optical_flow: np.ndarray | None = None
    """float16 [T - 1, 2, h, w]: optical flow along x and y from frame t to t+1, in pixels of the
    stored frame; h and w are smaller than the frame's."""
    mask: np.ndarray | None = None
    """uint8 [T, H, ceil(W / 8)]: the pixels of each frame that show the agent, one bit each along
    the width, first the highest bit of a byte (``numpy.packbits``)."""

    def misfit(self, num_frames: int) -> str:
        """Describes an array that cannot belong to a clip of so many frames; "" if all can."""
        wanted = {"true_action": (1, 2), "state": (2,), "action_noise": (2,), "optical_flow": (4,)}
        for name, num_dims in wanted.items():
            array = getattr(self, name)
            if array is not None and (array.ndim not in num_dims or len(array) > num_frames):
                return f"it has {num_frames} frames and {name} {list(array.shape)}"
        if self.condition is not None and self.condition.ndim != 1:
            return f"its condition is {list(self.condition.shape)}"
        return ""

    def to_bytes(self) -> bytes:
        """Returns the clip's ``.npz`` member."""
        buffer = io.BytesIO()
        arrays = {name: a for name, a in vars(self).items() if a is not None}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Labels":
        """Reads the clip's ``.npz`` member; never unpickles.

        Raises:
            ValueError: It is no such member, or its arrays are larger than it is.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                # Never packed by ``to_bytes``. Packed arrays may grow a thousandfold.
                if any(member.compress_type for member in arrays.zip.infolist()):
                    raise ValueError("its labels are packed")
                found = {f.name: arrays.get(f.name) for f in fields(cls)}
        # zipfile and numpy raise errors of many kinds for broken bytes; MemoryError if the header
        # of an array promises more than there is.
        except Exception as error:
            raise ValueError(f"its labels cannot be read: {error!r}") from None
        for name, array in found.items():
            if array is not None and getattr(array, "dtype", np.dtype("V")).kind not in "fiub":
                raise ValueError(f"its {name} holds no numbers")
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Holds ``shard_set.json``, which describes the whole set."""

    source: str
    width_px: int
    height_px: int
    fps: float | None
    """None if clips keep the rates of their videos."""
    num_clips: dict[str, int]
    """Number of clips per split. ``num_frames`` is likewise."""
    num_frames: dict[str, int]
    num_hours: float
    min_clip_frames: int
    max_clip_frames: int
    num_clip_files: int
    """Number of files in ``clips/``."""
    action: dict[str, Any] | None = None
    """Fields of ``ActionSpec``, and per dimension ``mean``, ``std``, ``min``, ``max`` and the
    quantiles ``q01`` and ``q99`` of the training clips; None without labels."""
    optical_flow_size_px: list[int] | None = None
    """Height and width of the optical flow stored with every clip, if any."""
    num_masked_clips: dict[str, int] = field(default_factory=dict)
    """Number of clips per split with a mask of the agent; empty if no clip has one."""
    has_signatures: bool = False
    """Whether the signatures of its clips lie beside each shard, so that other sources can be
    compared with the set (``filters.against``)."""

    def __post_init__(self) -> None:
        sides = self.width_px, self.height_px
        if min(sides) < 1 or max(sides) > _MAX_SIDE_PX:
            raise ValueError(f"frames of {self.width_px} x {self.height_px} pixels")
        longest_bytes = self.max_clip_frames * self.width_px * self.height_px * 3
        if not 0 <= self.min_clip_frames <= self.max_clip_frames or (
            longest_bytes > _MAX_DECODED_BYTES
        ):
            raise ValueError(f"clips of {self.min_clip_frames} to {self.max_clip_frames} frames")


class ShardWriter:
    """Writes one local tar, clip by clip. The caller renames it into place when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        # USTAR without owners and times: the same clips give the same bytes.
        # ``webdataset.TarWriter`` is not used: an import of any part of webdataset imports torch,
        # which preprocessing workers must not load, and its tar is written as a stream, which does
        # not tell where a clip lies.
        self._tar = tarfile.open(  # noqa: SIM115 - closed by close()
            fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT
        )
        self.clips: list[ClipLocation] = []

    def add(self, record: ClipRecord, video: bytes, labels: Labels | None) -> None:
        """Appends one clip's members."""
        meta = strict_json.dumps(record).encode()
        self._add(f"{record.clip_id}.{META_SUFFIX}", meta)
        video_offset = self._add(f"{record.clip_id}.{VIDEO_SUFFIX}", video)
        labels_data = labels.to_bytes() if labels else b""
        labels_offset = self._add(f"{record.clip_id}.{LABELS_SUFFIX}", labels_data) if labels else 0
        self.clips.append(
            ClipLocation(
                clip_id=record.clip_id,
                num_frames=record.num_frames,
                video_offset=video_offset,
                video_bytes=len(video),
                labels_offset=labels_offset,
                labels_bytes=len(labels_data),
                crc32=zlib.crc32(labels_data, zlib.crc32(video)),
            )
        )

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Ends the tar and flushes it to disk."""
        self._tar.close()
        self._file.close()

    def _add(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        # ``addfile`` fills the data up to whole blocks.
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self._file.tell() - padded


def read_records(path: Path) -> Iterator[ClipRecord]:
    """Yields the clip records of a local shard, in order."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(f".{META_SUFFIX}"):
                file = tar.extractfile(member)
                assert file is not None
                yield strict_json.loads(ClipRecord, file.read(), f"{path}: {member.name}")
