"""Defines stored latent actions, which `label_latents` writes and policy training reads.

A **latent set** is a folder (local or S3) with the latent actions that one LAM infers from every
frame pair of one shard set::

    latent_set.json        LatentSet: which LAM, which shards, Z; written last
    latents.parquet        one row per labeled clip (ClipLatents, and its shard)
    rejects.parquet        one row per clip that could not be labeled, with the reason
    train-000000.npy       float16 or float32 [N, Z], for train-000000.tar
    train-000000.json      LatentShard: checksum, and the rows of each clip

A file is complete once its ``.json`` exists. This module needs no torch, because Ray's readers
import it.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import ClipLocation, check_shard_name, entry_name, latents_name
from lafp.storage import strict_json
from lafp.storage.tables import read_rows

SET_FILE, CLIPS_FILE, REJECTS_FILE = "latent_set.json", "latents.parquet", "rejects.parquet"
MAX_ROUNDING = 1e-3
"""Latents are stored as float16 if rounding moves no dimension by more than this share of its
standard deviation (RMS), else as float32."""
_DTYPES = ("float16", "float32")
_CHUNK_ROWS = 4096
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Holds ``latent_set.json``, which describes the whole set."""

    lam_sha256: str
    """``weights_sha256`` of the LAM."""
    shards_sha256: str
    """``shards_sha256`` of the shard set."""
    latent_action_dim: int
    """Z."""
    frame_stack: int
    """F: the first pair of a clip is made of its frames F - 1 and F."""
    num_clips: int
    num_pairs: int
    num_rejected_clips: int
    num_bytes: int
    dtypes: str
    """Data types of the files. Each file has the smallest sufficient one (``MAX_ROUNDING``)."""
    rounding: float
    """RMS change by float16 over the standard deviation, for the worst dimension of the worst
    file."""


@dataclass(frozen=True, kw_only=True)
class ClipLatents:
    """Locates the rows of one clip. Row i belongs to frames (F - 1 + i, F + i)."""

    clip_id: str
    video_id: str
    first_row: int
    num_pairs: int

    def __post_init__(self) -> None:
        if min(self.first_row, self.num_pairs) < 0:
            raise ValueError(f"rows {self.first_row} to {self.first_row + self.num_pairs}")


@dataclass(frozen=True, kw_only=True)
class ClipReject:
    """Describes a clip without latents: one row of rejects.parquet."""

    clip_id: str
    video_id: str
    shard: str
    reason: str
    """``damaged`` or ``not_finite``."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class LatentShard:
    """Describes one complete file of latents."""

    shard: str
    """File name of the tar that holds the clips."""
    file: str
    dtype: str
    latent_action_dim: int
    frame_stack: int
    data_offset: int
    """Number of bytes before row 0."""
    num_bytes: int
    sha256: str
    rounding: float
    """RMS change by float16 over the standard deviation, for the worst dimension."""
    clips: tuple[ClipLatents, ...]
    rejects: tuple[ClipReject, ...]

    def __post_init__(self) -> None:
        if self.file != latents_name(check_shard_name(self.shard)):
            raise ValueError(f"{self.file!r} holds no latents of {self.shard}")
        sizes = self.latent_action_dim, self.frame_stack
        if self.dtype not in _DTYPES or min(sizes) < 1 or self.data_offset < 0:
            raise ValueError(f"{self.dtype} latents of {sizes[0]} numbers and {sizes[1]} frames")
        row = 0
        for clip in self.clips:
            if clip.first_row != row:
                raise ValueError(f"clip {clip.clip_id} does not begin at row {row}")
            row += clip.num_pairs

    @property
    def num_pairs(self) -> int:
        """Returns the number of rows."""
        return sum(clip.num_pairs for clip in self.clips)


class LatentShardWriter:
    """Writes the latents of one shard to a local file, clip by clip.

    Rows are written as float32 first, because all of them are needed to decide whether float16 is
    enough.

    Args:
        folder: Local folder of the file.
        shard: File name of the tar.
        latent_action_dim: Z.
        frame_stack: F.
    """

    def __init__(self, folder: Path, shard: str, latent_action_dim: int, frame_stack: int) -> None:
        self.path = folder / latents_name(shard)
        self._shard, self._dim, self._frame_stack = shard, latent_action_dim, frame_stack
        self._raw_path = folder / "float32"
        self._raw = self._raw_path.open("wb")
        self._clips: list[ClipLatents] = []
        self._rejects: list[ClipReject] = []
        self._num_rows = 0
        self._sums = np.zeros((3, latent_action_dim))

    def add(self, clip_id: str, video_id: str, latents: np.ndarray) -> None:
        """Appends a clip's latents, float32 [pairs, Z]."""
        assert latents.dtype == np.float32 and latents.shape[1:] == (self._dim,), latents.shape
        self._clips.append(
            ClipLatents(
                clip_id=clip_id,
                video_id=video_id,
                first_row=self._num_rows,
                num_pairs=len(latents),
            )
        )
        self._num_rows += len(latents)
        # Sums of squares over a whole shard lose their last digits in float32.
        values = latents.astype(np.float64)
        # Values beyond the range of float16 become infinite, which ``_rounding`` expects.
        with np.errstate(over="ignore"):
            error = latents.astype(np.float16).astype(np.float64) - values
        self._sums += values.sum(0), np.square(values).sum(0), np.square(error).sum(0)
        self._raw.write(latents.tobytes())

    def reject(self, clip_id: str, video_id: str, reason: str, detail: str) -> None:
        """Records a clip that has no latents."""
        self._rejects.append(
            ClipReject(
                clip_id=clip_id,
                video_id=video_id,
                shard=self._shard,
                reason=reason,
                detail=detail,
            )
        )

    def close(self) -> LatentShard:
        """Writes the file at ``path`` in the smallest sufficient dtype. Returns its entry."""
        self._raw.close()
        rounding = self._rounding()
        dtype = np.dtype(np.float16 if rounding <= MAX_ROUNDING else np.float32)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {"descr": dtype.str, "fortran_order": False, "shape": (self._num_rows, self._dim)},
        )
        digest = hashlib.sha256(header.getvalue())
        with self.path.open("wb") as file:
            file.write(header.getvalue())
            for rows in self._raw_rows():
                data = rows.astype(dtype).tobytes()
                digest.update(data)
                file.write(data)
        self._raw_path.unlink()
        return LatentShard(
            shard=self._shard,
            file=self.path.name,
            dtype=dtype.name,
            latent_action_dim=self._dim,
            frame_stack=self._frame_stack,
            data_offset=len(header.getvalue()),
            num_bytes=self.path.stat().st_size,
            sha256=digest.hexdigest(),
            rounding=rounding,
            clips=tuple(self._clips),
            rejects=tuple(self._rejects),
        )

    def _rounding(self) -> float:
        """Returns ``LatentShard.rounding``."""
        if not self._num_rows:
            return 0.0
        mean, square, error = self._sums / self._num_rows
        # Rounding can make the variance of an almost constant dimension negative.
        std, rms_error = np.sqrt(np.maximum(square - mean**2, 0)), np.sqrt(error)
        # A dimension that never changes carries no information, so its rounding does not matter.
        shares = np.divide(rms_error, std, out=np.zeros_like(std), where=std > 0)
        # Latents beyond the range of float16 become infinite. JSON has no infinity, so the largest
        # float32 stands for it.
        return float(shares.max()) if np.isfinite(error).all() else float(np.finfo(np.float32).max)

    def _raw_rows(self) -> Iterator[np.ndarray]:
        with self._raw_path.open("rb") as file:
            while data := file.read(_CHUNK_ROWS * self._dim * 4):
                yield np.frombuffer(data, np.float32).reshape(-1, self._dim)


def open_latent_set(uri: str) -> LatentSet:
    """Reads ``latent_set.json``.

    Raises:
        ConfigError: There is no finished latent set at ``uri``.
    """
    path = storage.join(uri, SET_FILE)
    if not storage.is_file(path):
        raise ConfigError(
            f"No latent set at {uri}: {SET_FILE} is missing. Write one with "
            "`python -m ray_jobs.label_latents`, or correct the path."
        )
    return _read(LatentSet, path)


def clips_without_latents(uri: str) -> frozenset[tuple[str, str]]:
    """Returns shard and id of each clip that `label_latents` rejected."""
    rows = read_rows(storage.join(uri, REJECTS_FILE), {"shard": str, "clip_id": str})
    return frozenset((row["shard"], row["clip_id"]) for row in rows)


class LatentReader:
    """Reads the latents of single clips, each with one ranged read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.spec = open_latent_set(uri)

    def read(self, shard: str, location: ClipLocation) -> np.ndarray:
        """Reads the latents of one clip by frame.

        Returns:
            float32 [T, Z]; row t belongs to frames (t, t + 1). Zero where there is no such pair or
            no whole stack of frames.

        Raises:
            ConfigError: The set's entry of the shard is missing or damaged.
            RuntimeError: The set has no latents of this clip.
            DamagedClipError: The file does not match its entry.
        """
        entry, clips = read_latent_entry(self.uri, shard)
        clip = clips.get(location.clip_id)
        if clip is None:
            raise RuntimeError(
                f"{self.uri} has no latents of clip {location.clip_id} ({shard}). "
                "Delete that folder and label anew."
            )
        first = entry.frame_stack - 1
        if clip.num_pairs and first + clip.num_pairs > location.num_frames:
            detail = f"latents of {clip.num_pairs} pairs for {location.num_frames} frames"
            raise DamagedClipError(location.clip_id, self.uri, "undecodable", detail)
        row_bytes = entry.latent_action_dim * np.dtype(entry.dtype).itemsize
        file = storage.join(self.uri, entry.file)
        offset = entry.data_offset + clip.first_row * row_bytes
        try:
            data = storage.read_bytes(file, offset, clip.num_pairs * row_bytes)
        except FileNotFoundError as error:
            gone = "the file does not exist"
            raise DamagedClipError(location.clip_id, file, "missing", gone) from error
        if len(data) < clip.num_pairs * row_bytes:
            ends = "the file ends before its latents do"
            raise DamagedClipError(location.clip_id, file, "truncated", ends)
        latents = np.zeros((location.num_frames, entry.latent_action_dim), np.float32)
        stored = np.frombuffer(data, entry.dtype).reshape(-1, entry.latent_action_dim)
        latents[first : first + clip.num_pairs] = stored
        return latents


def _read(kind: type[T], path: str) -> T:
    try:
        return strict_json.read(kind, path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} is missing. Label again, or copy the latent set again."
        ) from error
    except strict_json.DamagedError as error:
        raise ConfigError(f"{error}. Label again, or copy the latent set again.") from None


@lru_cache(maxsize=256)
def read_latent_entry(uri: str, shard: str) -> tuple[LatentShard, dict[str, ClipLatents]]:
    """Reads the entry of a shard of latents, and its clips by id. Entries are cached.

    Raises:
        ConfigError: The entry is missing or damaged, or of another size than its set.
    """
    entry = _read(LatentShard, storage.join(uri, entry_name(shard)))
    dim = open_latent_set(uri).latent_action_dim
    if entry.latent_action_dim != dim:
        raise ConfigError(
            f"{uri} has latents of {dim} numbers, those of {shard} have {entry.latent_action_dim}. "
            "Delete that folder and label anew."
        )
    return entry, {clip.clip_id: clip for clip in entry.clips}
