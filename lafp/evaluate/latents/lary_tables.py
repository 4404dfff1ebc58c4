"""Writes z in the files that LARY's commands read, so that a LAM can stand on its scoreboard.

LARY (Nie et al., arXiv:2604.11689; github.com/meituan-longcat/LARYBench) describes its frames by
tables ``{dataset}_metadata_{split}.csv``. For its regression a row names two pictures, ``src_img``
and ``tgt_img``; for its classification a video and 9 frames of it, ``video_path`` and
``sample_indices``. Its command ``extract`` writes, for row n of a table:

- ``{dataset}/{split}/{model}/latent_action_{n:08d}.npz`` with ``tokens`` (float, [1, Z] of a pair
  of pictures, [8, 1, Z] of the 8 pairs of 9 frames) and ``indices`` (codes; may be empty);
- ``{split}_la_{dataset}_{stride}_{model}.csv`` (without the stride for videos): the table, with the
  path of the npz as ``la_path``.

This module does the same. LARY resizes frames to a square; here they get the LAM's frame size.
"""

import csv
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafp import storage
from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.data.windows import pixels_to_float
from lafp.lam import Lam
from lafp.types import ObsSpec
from lafp.video.decoders.base import DamagedSpan, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

PICTURES, VIDEO = ("src_img", "tgt_img"), ("video_path", "sample_indices")
_TABLE = re.compile(r"(?P<dataset>\w+)_metadata_(?P<split>\w+)\.csv", re.ASCII)
_MAX_PIXELS, _TIMEOUT_S, _ROWS_PER_BATCH = 2**26, 120.0, 64


@dataclass(frozen=True, kw_only=True)
class LaryTable:
    """One table of LARY whose frames get z."""

    table: str
    """Local path of ``{dataset}_metadata_{split}.csv``."""
    frames: str
    """Local folder to which the table's paths are relative, at the same path on every node: for
    CALVIN ``DATA_DIR/regression/calvin/val_stride5``, for videos ``DATA_DIR/classification``."""
    stride: int = 5
    """Steps between two pictures, which LARY has in the name of the new table."""
    model: str = "lafp"
    """Name of the LAM for LARY's ``--model``."""

    def __post_init__(self) -> None:
        if not _TABLE.fullmatch(Path(self.table).name):
            raise ValueError(
                f"{self.table} is no table of LARY: expected a file named "
                "DATASET_metadata_SPLIT.csv, such as calvin_metadata_val.csv."
            )
        if not re.fullmatch(r"[\w-]+", self.model, re.ASCII):
            raise ValueError(f"model must consist of letters, digits, - and _, got {self.model!r}.")
        check_at_least(self, 1, "stride")

    @property
    def dataset_and_split(self) -> tuple[str, str]:
        """Returns what LARY calls the table's ``--dataset`` and ``--split``."""
        found = _TABLE.fullmatch(Path(self.table).name)
        assert found is not None
        return found["dataset"], found["split"]


def check_lary_table(table: LaryTable, obs: ObsSpec) -> None:
    """Checks a table before the job starts.

    Raises:
        ConfigError: The LAM reads stacks of frames, or the table or its folder is missing, or its
            columns are not those of LARY.
    """
    if obs.frame_stack != 1:
        raise ConfigError(
            f"lary_tables: the LAM reads stacks of {obs.frame_stack} frames, but LARY has single "
            "frames. Train one with window.frame_stack=1."
        )
    _check_is_there(table.table, Path.is_file)
    _check_is_there(table.frames, Path.is_dir)
    with Path(table.table).open(newline="") as file:
        columns = next(csv.reader(file), [])
    if not any(set(needed) <= set(columns) for needed in (PICTURES, VIDEO)):
        raise ConfigError(
            f"lary_tables: {table.table} has the columns {', '.join(columns)}; expected "
            f"{' and '.join(PICTURES)}, or {' and '.join(VIDEO)}."
        )


def tables_sha256(tables: Sequence[LaryTable]) -> str:
    """Hashes the files of some tables.

    Raises:
        ConfigError: One is missing.
    """
    for table in tables:
        _check_is_there(table.table, Path.is_file)
    digests = [hashlib.sha256(Path(table.table).read_bytes()).hexdigest() for table in tables]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _check_is_there(path: str, is_there: Callable[[Path], bool]) -> None:
    if not is_there(Path(path)):
        raise ConfigError(f"lary_tables: there is no {path}. Name table=FILE, frames=FOLDER.")


def write_lary_tokens(lam: Lam, table: LaryTable, out_uri: str) -> dict[str, object]:
    """Writes ``latent_actions/...npz`` and ``data/...csv`` below ``out_uri``.

    Rows whose frames cannot be read are left out of the table, and listed with the reason in
    ``data/...rejects.csv``.

    Returns:
        ``table`` (URI of the new one), ``num_rows`` and ``num_rejects``.
    """
    dataset, split = table.dataset_and_split
    folder = f"{dataset}/{split}/{table.model}"
    with Path(table.table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    is_video = VIDEO[0] in (rows[0] if rows else {})
    kept: list[dict[str, str]] = []
    rejects: list[dict[str, str]] = []
    for first in range(0, len(rows), _ROWS_PER_BATCH):
        batch = list(enumerate(rows[first : first + _ROWS_PER_BATCH], first))
        sound = list(_read(batch, table.frames, lam.obs, is_video, rejects))
        found = _tokens(lam, [frames for _, _, frames in sound])
        for (number, row, _), tokens in zip(sound, found, strict=True):
            path = f"{folder}/latent_action_{number:08d}.npz"
            buffer = io.BytesIO()
            np.savez_compressed(
                buffer, tokens=tokens if is_video else tokens[0], indices=np.array([])
            )
            uri = storage.join(out_uri, "latent_actions", path)
            storage.write_bytes(uri, buffer.getvalue())
            kept.append(row | {"la_path": path})
    stem = f"{split}_la_{dataset}" + ("" if is_video else f"_{table.stride}") + f"_{table.model}"
    written = storage.join(out_uri, "data", f"{stem}.csv")
    if rejects:
        _write(storage.join(out_uri, "data", f"{stem}.rejects.csv"), rejects)
    _write(written, kept)
    return {"table": written, "num_rows": len(kept), "num_rejects": len(rejects)}


def _read(
    rows: Sequence[tuple[int, dict[str, str]]],
    folder: str,
    obs: ObsSpec,
    is_video: bool,
    rejects: list[dict[str, str]],
) -> Iterator[tuple[int, dict[str, str], np.ndarray]]:
    """Yields number, row and frames, uint8 [F, H, W, 3], of the rows that can be read."""
    for number, row in rows:
        try:
            frames = (_video_frames if is_video else _pictures)(row, folder, obs)
        except (OSError, VideoError, ValueError, Image.DecompressionBombError) as error:
            rejects.append(row | {"reason": str(error)})
            continue
        yield number, row, frames


def _pictures(row: Mapping[str, str], folder: str, obs: ObsSpec) -> np.ndarray:
    frames = []
    for column in PICTURES:
        with Image.open(Path(folder, row[column])) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{row[column]} has more than {_MAX_PIXELS} pixels")
            size = obs.width_px, obs.height_px
            frames.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)))
    return np.stack(frames)


def _video_frames(row: Mapping[str, str], folder: str, obs: ObsSpec) -> np.ndarray:
    """Decodes the frames of ``sample_indices``. As LARY does, an index past the end means it."""
    indices = [int(index) for index in row[VIDEO[1]].split(",")]
    path, deadline = str(Path(folder, row[VIDEO[0]])), time.monotonic() + _TIMEOUT_S
    decoder = PyAVDecoder(PyAVConfig())
    info = decoder.probe(path, _MAX_PIXELS, deadline)
    kept: dict[int, np.ndarray] = {}
    wanted, num = set(indices), 0
    for frame in decoder.frames(path, info, obs.width_px, obs.height_px, deadline):
        if isinstance(frame, DamagedSpan):
            raise ValueError(f"{row[VIDEO[0]]} is damaged, so its frames cannot be counted")
        last = frame.pixels()  # of every frame: any may turn out to be the last one
        if num in wanted:
            kept[num] = last
        num += 1
    if not num:
        raise ValueError(f"{row[VIDEO[0]]} has no frames")
    kept[num - 1] = last
    return np.stack([kept[min(max(index, 0), num - 1)] for index in indices])


def _tokens(lam: Lam, clips: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields z of the neighbouring frames of each clip, float32 [F - 1, 1, Z]."""
    if not clips:
        return
    before, after = (_observations([c[part] for c in clips]) for part in (np.s_[:-1], np.s_[1:]))
    latents = [
        lam.infer_latent_action(a.to(lam.device), b.to(lam.device)).float().cpu()
        for a, b in zip(before.split(256), after.split(256), strict=True)
    ]
    sizes = [len(clip) - 1 for clip in clips]
    for latent_NZ in torch.cat(latents).split(sizes):
        yield latent_NZ[:, None].numpy()


def _observations(clips: Sequence[np.ndarray]) -> Tensor:
    frames = torch.from_numpy(np.concatenate(clips))
    return pixels_to_float(frames.permute(0, 3, 1, 2))


def _write(uri: str, rows: Sequence[Mapping[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["la_path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_text(uri, buffer.getvalue())
