"""Writes z in the files that LARY's commands read, so that a LAM can stand on its scoreboard.

LARY (Nie et al., arXiv:2604.11689; github.com/meituan-longcat/LARYBench) describes its frames by
tables ``{dataset}_metadata_{split}.csv``. For its regression a row names two pictures, ``src_img``
and ``tgt_img``; for its classification a video and 9 frames of it, ``video_path`` and
``sample_indices``. Its command ``extract`` writes, for row n of a table:

- ``{dataset}/{split}/{model}/latent_action_{n:08d}.npz`` with ``tokens`` (float, [1, Z] of a pair
  of pictures, [8, 1, Z] of the 8 pairs of 9 frames) and ``indices`` (codes; may be empty);
- ``{split}_la_{dataset}_{stride}_{model}.csv`` (without the stride for videos): the table, with the
  path of the npz as ``la_path``.

This module does the same. LARY resizes frames to a square; here they get the LAM's frame size. LARY
has single frames: a LAM that reads stacks of F frames gets stacks of a row's frames, of which the
first fills its whole stack, as the first frame of an episode does when a policy acts (``AgentStep``
in ``lafp.finished.step``). So a pair of pictures (a, b) becomes (a, ..., a, a) and (a, ..., a, b).
"""

# Shape suffixes in this file: B rows, T frames of a row, F frames of a stack, N frame pairs,
# D features.

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
from lafp.data.windows import stack_frames
from lafp.lam import Lam
from lafp.types import ObsSpec, Window
from lafp.video.decoders.base import DamagedSpan, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

PICTURES, VIDEO = ("src_img", "tgt_img"), ("video_path", "sample_indices")
FRAMES_OF_VIDEO = 9
"""LARY's table names so many frames of each video."""
_TABLE = re.compile(r"(?P<dataset>\w+)_metadata_(?P<split>\w+)\.csv", re.ASCII)
_MAX_PIXELS, _TIMEOUT_S, _ROWS_PER_BATCH, _PAIRS_PER_BATCH = 2**26, 120.0, 64, 256


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


def check_lary_table(table: LaryTable) -> None:
    """Checks a table before the job starts.

    Raises:
        ConfigError: The table or its folder is missing, or its columns are not those of LARY.
    """
    _check_is_there(table.table, Path.is_file)
    _check_is_there(table.frames, Path.is_dir)
    columns = columns_of(table)
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
    folder, is_video = f"{dataset}/{split}/{table.model}", has_videos(table)
    kept: list[dict[str, str]] = []
    rejects: list[dict[str, str]] = []
    for batch in read_rows(table, lam.obs, rejects):
        found = pair_features(lam_features(lam), batch, lam.obs, lam.device)
        for row, tokens_ND in zip(batch, found.numpy(), strict=True):
            path = f"{folder}/latent_action_{row.number:08d}.npz"
            # LARY has several tokens of a frame pair, z is one: [8, 1, Z] of a video.
            tokens = tokens_ND[:, None] if is_video else tokens_ND
            buffer = io.BytesIO()
            np.savez_compressed(buffer, tokens=tokens, indices=np.array([]))
            uri = storage.join(out_uri, "latent_actions", path)
            storage.write_bytes(uri, buffer.getvalue())
            kept.append(row.cells | {"la_path": path})
    stem = f"{split}_la_{dataset}" + ("" if is_video else f"_{table.stride}") + f"_{table.model}"
    written = storage.join(out_uri, "data", f"{stem}.csv")
    if rejects:
        _write(storage.join(out_uri, "data", f"{stem}.rejects.csv"), rejects)
    _write(written, kept)
    return {"table": written, "num_rows": len(kept), "num_rejects": len(rejects)}


@dataclass(frozen=True, kw_only=True)
class LaryRow:
    """A row of a table, with its frames."""

    number: int
    """Position of the row in the table, from 0."""
    cells: dict[str, str]
    frames: np.ndarray
    """uint8 [T, H, W, 3]: the two pictures, or the frames of the video."""


def read_rows(
    table: LaryTable, obs: ObsSpec, rejects: list[dict[str, str]]
) -> Iterator[list[LaryRow]]:
    """Yields the rows of a table whose frames can be read, batch by batch.

    Args:
        table: The table.
        obs: Says which size the frames get.
        rejects: Gets the other rows, each with its reason.
    """
    is_video, rows = has_videos(table), read_cells(table)
    for first in range(0, len(rows), _ROWS_PER_BATCH):
        batch = []
        for number, cells in enumerate(rows[first : first + _ROWS_PER_BATCH], first):
            try:
                frames = (_video_frames if is_video else _pictures)(cells, table.frames, obs)
            except (OSError, VideoError, ValueError, Image.DecompressionBombError) as error:
                rejects.append(cells | {"reason": str(error)})
                continue
            batch.append(LaryRow(number=number, cells=cells, frames=frames))
        if batch:
            yield batch


def read_cells(table: LaryTable) -> list[dict[str, str]]:
    """Reads a table without its frames."""
    with Path(table.table).open(newline="") as file:
        return list(csv.DictReader(file, restval=""))


def columns_of(table: LaryTable) -> list[str]:
    """Returns the names of a table's columns."""
    with Path(table.table).open(newline="") as file:
        return next(csv.reader(file), [])


def has_videos(table: LaryTable) -> bool:
    """Tells whether a table names frames of videos, not pairs of pictures."""
    return set(VIDEO) <= set(columns_of(table))


def lam_features(lam: Lam) -> Callable[[Window], Tensor]:
    """Returns the map from windows to z."""
    return lambda window: lam.infer_latent_action(window.obs, window.next_obs)


def pair_features(
    features_of: Callable[[Window], Tensor],
    rows: Sequence[LaryRow],
    obs: ObsSpec,
    device: torch.device,
) -> Tensor:
    """Computes features of the neighbouring frames of each row, float32 [B, T - 1, D] on the CPU.

    Args:
        features_of: Maps windows to features.
        rows: Rows of one table.
        obs: Says how many frames are stacked.
        device: Computes the features.
    """
    frames = torch.from_numpy(np.stack([row.frames for row in rows])).to(device)
    stack, (num_rows, num_frames) = obs.frame_stack, frames.shape[:2]
    frames = torch.cat([frames[:, :1].expand(-1, stack - 1, -1, -1, -1), frames], dim=1)
    t_BT = torch.arange(stack - 1, stack + num_frames - 2, device=device).expand(num_rows, -1)
    row_N = torch.arange(num_rows, device=device).repeat_interleave(num_frames - 1)
    parts = []
    for row, t in zip(
        row_N.split(_PAIRS_PER_BATCH), t_BT.flatten().split(_PAIRS_PER_BATCH), strict=True
    ):
        now, then = (stack_frames(frames, row, at, stack) for at in (t, t + 1))
        window = Window(obs=now, next_obs=then, future_obs=then, offset_steps=torch.ones_like(t))
        parts.append(features_of(window).float().cpu())
    return torch.cat(parts).unflatten(0, (num_rows, -1))


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
    if len(indices) != FRAMES_OF_VIDEO:
        raise ValueError(f"{len(indices)} sample_indices, expected {FRAMES_OF_VIDEO}")
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


def _write(uri: str, rows: Sequence[Mapping[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["la_path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_text(uri, buffer.getvalue())
