"""Converts rows of one LeRobot episode to labels. By LeRobot's convention row t is frame t.

Other columns (``frame_index``, time stamps) and the episode's ``length`` check that. If they
disagree, rows are assigned to the frames that they name, or the episode is a reject.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.preprocess.clip.labels.flawed import Flaw
from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, LabelsConfig, episode_labels
from lafp.video.decoders.base import VideoError

ACTION_KEY, STATE_KEY = "action", "observation.state"
FRAME_INDEX, EPISODE_INDEX = "frame_index", "episode_index"
# Time stamps within this share of a step from whole steps count frames and are not a clock.
_ON_GRID = 0.1


@dataclass(frozen=True, kw_only=True)
class Promised:
    """Holds the dataset index's data about an episode."""

    episode: int
    length: int | None
    """Number of its frames and rows; None if the index does not give it."""
    fps: float | None

    @classmethod
    def of(cls, details: dict[str, Any]) -> "Promised":
        """Builds an object from an item's details."""
        return cls(**{f.name: details[f.name] for f in fields(cls)})


def label_columns(names: list[str], cfg: LabelsConfig) -> list[str]:
    """Lists the columns of a file that ``table_labels`` needs.

    Raises:
        VideoError: ``no_labels``: there is no action.
    """
    wanted = cfg.action_names(ACTION_KEY)
    if missing := [key for key in wanted if key not in names]:
        raise VideoError("no_labels", f"no column {missing[0]!r} among {', '.join(names)}")
    more = (*cfg.state_names(STATE_KEY), cfg.time_key, FRAME_INDEX, EPISODE_INDEX)
    return list(dict.fromkeys([*wanted, *(key for key in more if key in names)]))


def table_labels(
    table: pa.Table, num_frames: int, promised: Promised, cfg: LabelsConfig
) -> EpisodeLabels:
    """Reads the labels in one episode's rows, one row per frame of its video.

    Raises:
        VideoError: ``no_labels``, or ``labels_mismatch``: rows cannot be assigned to frames.
    """
    row_of_frame, twice = rows_of_frames(table, num_frames, promised, cfg)
    action, action_flaws = _joined(table, cfg.action_names(ACTION_KEY))
    if action.dtype.kind == "i" and action.shape[1:] == (1,):
        action = action[:, 0]  # discrete
    names = cfg.state_names(STATE_KEY)
    has_state = all(name in table.column_names for name in names)
    state, state_flaws = _joined(table, names) if has_state else (None, [])
    labels = episode_labels(action, state, None)
    flaws = [*action_flaws, *state_flaws, *labels.flaws]
    found = {frame: row for frame, row in enumerate(row_of_frame.tolist()) if row >= 0}
    frame_of = {row: frame for frame, row in found.items()}
    placed = [Flaw(frame_of[flaw.row], flaw.detail) for flaw in flaws if flaw.row in frame_of]
    placed += [
        Flaw(frame, "the table has two rows of this frame" if frame in twice else "no row")
        for frame in range(num_frames)
        if frame not in found or frame in twice
    ]
    rows = np.maximum(row_of_frame, 0)
    return replace(
        labels,
        action=labels.action[rows],
        state=None if labels.state is None else labels.state[rows],
        flaws=tuple(placed),
        name=f"episode {promised.episode}",
    )


def rows_of_frames(
    table: pa.Table, num_frames: int, promised: Promised, cfg: LabelsConfig
) -> tuple[np.ndarray, set[int]]:
    """Finds the row of each frame.

    Returns:
        int64 [num_frames], -1 where a frame has no row; and the frames with several rows that
        differ.

    Raises:
        VideoError: ``labels_mismatch``.
    """
    num_rows = len(table)
    counts = f"{num_frames} frames, {num_rows} rows of labels"
    if promised.length not in (None, num_frames):
        raise _mismatch(f"{counts}, and its length is {promised.length} in meta")
    episodes = _whole_numbers(table, EPISODE_INDEX)
    if episodes is not None and len(others := sorted(set(episodes.tolist()))) > 1:
        raise _mismatch(f"the table of one episode has rows of episodes {others}")
    numbers = _whole_numbers(table, FRAME_INDEX)
    stamped = _stamped(table, promised, cfg)
    claimed = stamped if numbers is None else numbers
    if claimed is None or _is_counting(claimed):
        if num_rows != num_frames:
            raise _mismatch(counts)
        # A clock with a pause exceeds the last frame. Stamps below that name other frames.
        elsewhere = None if stamped is None or _is_counting(stamped) else stamped
        if numbers is not None and elsewhere is not None and elsewhere.max() < num_frames:
            raise _mismatch(f"{FRAME_INDEX} and {_stamps(cfg)} name different frames")
        return np.arange(num_frames), set()
    what = _stamps(cfg) if numbers is None else f"column {FRAME_INDEX!r}"
    if claimed.min() != 0 or claimed.max() != num_frames - 1:
        low, high = int(claimed.min()), int(claimed.max())
        raise _mismatch(
            f"{counts}, {what} goes from frame {low} to {high}, expected 0 to {num_frames - 1}"
        )
    row_of_frame = np.full(num_frames, -1)
    row_of_frame[claimed[::-1]] = np.arange(num_rows)[::-1]  # reversed: the first row wins
    # Rows that differ only in their time stamp or running number are the same row twice.
    content = table.drop_columns([c for c in (cfg.time_key, "index") if c in table.column_names])
    twice = {
        int(claimed[row])
        for row in range(num_rows)
        if (first := int(row_of_frame[claimed[row]])) != row
        and content.slice(first, 1) != content.slice(row, 1)
    }
    return row_of_frame, twice


def _mismatch(detail: str) -> VideoError:
    return VideoError("labels_mismatch", detail)


def _stamps(cfg: LabelsConfig) -> str:
    return f"the time stamps {cfg.time_key!r} (labels.time_key; null ignores them)"


def _is_counting(numbers: np.ndarray) -> bool:
    return bool((np.diff(numbers) == 1).all())


def _whole_numbers(table: pa.Table, name: str) -> np.ndarray | None:
    """Returns int64 [T]; None if the column is missing or holds something else."""
    if name not in table.column_names or not len(table):
        return None
    values = np.asarray(column_values(table, name))
    return values.reshape(-1) if values.dtype.kind in "iu" and values.size == len(table) else None


def _stamped(table: pa.Table, promised: Promised, cfg: LabelsConfig) -> np.ndarray | None:
    """Returns frame numbers from time stamps; None if these are missing or a clock of their own.

    Raises:
        VideoError: ``labels_mismatch``: they are needed, but do not ascend.
    """
    if cfg.time_key is None or cfg.time_key not in table.column_names or not len(table):
        return None
    times_s = np.asarray(column_values(table, cfg.time_key))
    has_numbers = _whole_numbers(table, FRAME_INDEX) is not None
    is_clock = times_s.size == len(table) and times_s.dtype.kind in "fiu"
    if is_clock and np.isfinite(times_s).all():
        times_s = times_s.reshape(-1).astype(np.float64)
        if promised.fps is not None:
            steps = (times_s - times_s[0]) * promised.fps
            if np.abs(steps - np.round(steps)).max() <= _ON_GRID:
                return np.round(steps).astype(np.int64)
        if has_numbers or (np.diff(times_s) > 0).all():
            return None
    elif has_numbers:
        return None
    raise _mismatch(f"{_stamps(cfg)} must be finite and ascend")


def _joined(table: pa.Table, names: tuple[str, ...]) -> tuple[np.ndarray, list[Flaw]]:
    """Returns the columns side by side, [T, ...], and the rows that hold something else."""
    parts, flaws = [], []
    for name in names:
        rows, found = _column(table, name)
        parts.append(rows)
        flaws += found
    if len(parts) == 1:
        return parts[0], flaws
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1), flaws


def _column(table: pa.Table, name: str) -> tuple[np.ndarray, list[Flaw]]:
    """Returns [T, ...] of numbers, scalars as [T, 1]. Other rows become 0 and flaws.

    Raises:
        VideoError: ``no_labels``: no row holds numbers.
    """
    values: list[Any] = column_values(table, name)
    shapes = [_shape(value) for value in values]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        raise VideoError("no_labels", f"column {name!r} is not numbers")
    # Most rows decide what the column holds, because any row may be the broken one.
    usual = max(set(known), key=known.count)
    flaws = [
        Flaw(row, f"{name} {'is not numbers' if shape is None else f'has shape {list(shape)}'}")
        for row, shape in enumerate(shapes)
        if shape != usual
    ]
    for flaw in flaws:
        # The row is named as a flaw and its frame cut out. Zeros only keep the array in shape.
        values[flaw.row] = np.zeros(usual, int).tolist()
    rows = np.asarray(values)
    return (rows[:, None] if rows.ndim == 1 else rows), flaws


def column_values(table: pa.Table, name: str) -> list[Any]:
    """Returns the cells of a column.

    Raises:
        VideoError: ``no_labels``: Python has no such values, such as times after the year 9999.
    """
    try:
        return list(table[name].to_pylist())
    except (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise VideoError("no_labels", f"column {name!r} cannot be read: {error}") from error


def _shape(value: Any) -> tuple[int, ...] | None:
    """Returns the shape of a number or nested lists of numbers; None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array.shape if array.dtype.kind in "fiub" and array.size else None


def read_columns(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
    """Reads some columns of a file whose bytes are in memory.

    Raises:
        VideoError: ``no_labels``.
    """
    try:
        return file.read(columns)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise VideoError("no_labels", f"parquet: {error}") from error
