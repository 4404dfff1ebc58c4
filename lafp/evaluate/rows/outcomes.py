"""Files that the rollouts of one method leave behind.

Below ``rollouts/`` of the stage, per label:

    <label>.mp4       the first episodes as tiles, framed in green once they succeeded, red once
                      they failed, where the task knows success
    <label>.npz       path: float32 [N, T + 1, S], the states of every episode; length [N]; success
                      [N] where the task knows it
    <label>.parquet   a row per episode (``Episode``); written last, so a label is whole or absent
"""

# Shape letters in this file: N episodes, T steps, S state, H height, W width, M forks.

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lafp import storage
from lafp.evaluate.acting.rollouts import Recording, RolloutResult
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM, Subject
from lafp.evaluate.rows.statistics import interval_of_mean
from lafp.storage.tables import read_records, read_table, write_rows
from lafp.video import EncodeConfig, encode_clip

T = TypeVar("T", float, np.ndarray)
MIN_TILE_PX, BORDER_PX, NUM_COLUMNS = 96, 3, 4
GREEN, RED, NEUTRAL = (46, 160, 67), (207, 34, 46), (110, 119, 129)


@dataclass(frozen=True, kw_only=True)
class Episode(Subject):
    """A row of ``episodes.parquet``: enough to compute every interval again."""

    episode: int
    """Number of the episode; the same number is the same episode for every method."""
    episode_seed: int
    success: bool | None
    """None where the task knows no success."""
    episode_return: float
    length: int
    """Steps until the end."""
    modes: list[int]
    """Way taken at each fork of the task, -1 where undecided."""
    episode_task: str | None = None
    """This episode's task, where the environment has several."""


def is_measured(uri: str, label: str) -> bool:
    """Tells whether ``write_outcomes`` has finished for this label."""
    return storage.is_file(_path(uri, label, "parquet"))


def write_outcomes(uri: str, subject: Subject, parts: Sequence[RolloutResult], fps: float) -> None:
    """Writes the rollouts of one method below the stage folder ``uri``.

    Args:
        uri: Folder of the stage.
        subject: The method.
        parts: Its episodes in order, in one or several batches.
        fps: Frame rate of the video of the first episodes.
    """
    recordings = [recording for part in parts for recording in part.recordings]
    success = [success for part in parts for success in part.successes()]
    if recordings:
        frames = tile(recordings, success[: len(recordings)])
        video = encode_clip(frames, fps, EncodeConfig(crf=16, pixel_format="yuv444p"))
        storage.write_bytes(_path(uri, subject.label, "mp4"), video)
    buffer = io.BytesIO()
    arrays = {"path": _join_paths(parts), "length": np.concatenate([p.length for p in parts])}
    if None not in success:
        arrays["success"] = np.array(success)
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    storage.write_bytes(_path(uri, subject.label, "npz"), buffer.getvalue())
    # The episodes come last: ``is_measured`` takes this file as the sign that all others are there.
    episodes = _episodes(subject, parts)
    write_episodes(_path(uri, subject.label, "parquet"), episodes)


def read_outcomes(uri: str, label: str) -> list[Episode]:
    """Reads the episodes of one method."""
    return read_records(Episode, _path(uri, label, "parquet"))


def write_episodes(uri: str, episodes: Sequence[Episode]) -> None:
    """Writes a table of episodes, replacing one that is there."""
    write_rows(uri, Episode, episodes)


def read_episode_outcomes(uri: str) -> dict[str, np.ndarray]:
    """Reads each label's outcomes from a table, float [N]; all labels have the same episodes.

    Success, 0 or 1; where the task knows none, the return above that of random actions, over the
    demonstrators' above it; without a ``ReturnScale``, the return.
    """
    columns = ["label", "episode", "success", "episode_return"]
    table = read_table(uri, columns).to_pandas().sort_values("episode")
    if table["success"].notna().all():
        table["outcome"] = table["success"].astype(float)
    else:
        returns = {
            label: of["episode_return"].to_numpy(float) for label, of in table.groupby("label")
        }
        nothing = np.zeros(0)
        scale = return_scale(returns.get(RANDOM, nothing), returns.get(DEMONSTRATOR, nothing))
        table["outcome"] = table["episode_return"].astype(float)
        if scale is not None:
            table["outcome"] = scale.normalized(table["outcome"].to_numpy())
    by_label = table.groupby("label")["outcome"]
    return {str(label): of_label.to_numpy(float) for label, of_label in by_label}


@dataclass(frozen=True, kw_only=True)
class ReturnScale:
    """The scale of normalized returns: 0 is the return of random actions, 1 the demonstrators'."""

    random: float
    demonstrators: float

    def normalized(self, value: T) -> T:
        """Computes (R - R_random) / (R_demonstrators - R_random)."""
        return (value - self.random) / (self.demonstrators - self.random)


def return_scale(
    random: Sequence[float] | np.ndarray, demonstrators: Sequence[float] | np.ndarray
) -> ReturnScale | None:
    """Makes the scale from returns in the same episodes.

    Args:
        random: Return of random actions in each episode, float [N]; empty if there are none.
        demonstrators: Those of the demonstrators, float [N].

    Returns:
        None unless the 95 % interval of the difference is above 0: of a scale with ends that are
        hardly apart, the normalized returns would be noise. Episodes with a return that is not
        finite do not count.
    """
    if len(random) != len(demonstrators):
        return None
    pairs_N2 = np.stack([np.asarray(random, float), np.asarray(demonstrators, float)], axis=1)
    pairs_N2 = pairs_N2[np.isfinite(pairs_N2).all(axis=1)]
    # One pair has an interval without width.
    if len(pairs_N2) < 2 or interval_of_mean([pairs_N2[:, 1] - pairs_N2[:, 0]]).low <= 0:
        return None
    low, high = pairs_N2.mean(axis=0)
    return ReturnScale(random=float(low), demonstrators=float(high))


def tile(recordings: Sequence[Recording], success: Sequence[bool | None]) -> np.ndarray:
    """Puts episodes side by side, uint8 [T, H, W, 3]. An episode that is over stands still."""
    num_steps = max(len(recording.frames) for recording in recordings)
    num_columns = min(NUM_COLUMNS, len(recordings))
    tiles = [
        _framed(recording.frames, is_success, num_steps)
        for recording, is_success in zip(recordings, success, strict=True)
    ]
    blank = np.full_like(tiles[0], 255)
    rows = [tiles[i : i + num_columns] for i in range(0, len(tiles), num_columns)]
    rows[-1] += [blank] * (num_columns - len(rows[-1]))
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)


def _framed(frames: np.ndarray, is_success: bool | None, num_steps: int) -> np.ndarray:
    scale = -(-MIN_TILE_PX // frames.shape[1])
    large = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    held = np.concatenate([large, large[-1:].repeat(num_steps - len(large), axis=0)])
    margin = [(0, 0), (BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX), (0, 0)]
    framed = np.pad(held, margin)
    is_border_HW = np.pad(np.zeros(held.shape[1:3], bool), BORDER_PX, constant_values=True)
    framed[:, is_border_HW] = NEUTRAL
    if is_success is not None:
        framed[len(frames) - 1 :, is_border_HW] = GREEN if is_success else RED
    return framed


def _join_paths(parts: Sequence[RolloutResult]) -> np.ndarray:
    num_steps = max(part.path.shape[1] for part in parts)
    return np.concatenate(
        [
            np.pad(part.path, [(0, 0), (0, num_steps - part.path.shape[1]), (0, 0)], mode="edge")
            for part in parts
        ]
    )


def _episodes(subject: Subject, parts: Sequence[RolloutResult]) -> list[Episode]:
    rows = [(part, n, success) for part in parts for n, success in enumerate(part.successes())]
    return [
        Episode(
            **vars(subject),
            episode=number,
            episode_seed=int(part.seeds[n]),
            success=success,
            episode_return=float(part.episode_return[n]),
            length=int(part.length[n]),
            modes=part.modes[n].tolist(),
            episode_task=part.tasks[n] if part.tasks else None,
        )
        for number, (part, n, success) in enumerate(rows)
    ]


def _path(uri: str, label: str, suffix: str) -> str:
    return storage.join(uri, "rollouts", f"{label}.{suffix}")
