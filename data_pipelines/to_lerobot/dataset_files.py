"""Writes the files of a LeRobot dataset, episode by episode."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipelines.to_lerobot import feature_statistics, layout
from data_pipelines.to_lerobot.episodes import Episode
from data_pipelines.to_lerobot.feature_statistics import DatasetStatistics
from data_pipelines.to_lerobot.layout import CAMERA, place
from data_pipelines.to_lerobot.video_files import Span, VideoFiles
from lafp import storage
from lafp.storage import strict_json
from lafp.storage.tables import TableWriter
from lafp.video.clip_codec import decode_frames

_EPISODES_PER_FILE = 10_000
_OF_CLIP = ("clip_id", "video_id", "video_uri", "start_s", "end_s")
"""Columns of the table of clips that ``meta/episodes`` holds too: where an episode is from."""


class OddEpisodeError(ValueError):
    """Says that an episode has other features than the first one."""


class DatasetFiles:
    """Writes episodes one after the other. ``close`` completes the dataset.

    Args:
        out: URI of the dataset.
        folder: Local folder for files that are being written.
        fps: Frames per second of all clips.
        size_px: Height and width of the frames.
        task: Task of every episode; None takes the name of the clip's source.
    """

    def __init__(
        self, out: str, folder: Path, fps: float, size_px: tuple[int, int], task: str | None
    ) -> None:
        self._out, self._fps, self._task = out, fps, task
        self._size_px = size_px
        self._videos = VideoFiles(out, fps, folder)
        self._data = _Tables(out, layout.DATA, folder / "data.parquet")
        self._index = _Tables(out, layout.EPISODES, folder / "episodes.parquet")
        self._statistics = DatasetStatistics()
        self._features: dict[str, dict[str, object]] = {}
        self._tasks: dict[str, int] = {}
        self.num_frames = 0
        self._num_episodes: Counter[str] = Counter()

    @property
    def num_episodes(self) -> int:
        """Returns the number of episodes so far."""
        return self._num_episodes.total()

    def add(self, episode: Episode) -> None:
        """Appends an episode.

        Raises:
            OddEpisodeError: It has other features than the first one. Nothing was appended.
            ValueError: Its clip does not decode. Nothing was appended.
        """
        features = layout.features_of(episode.rows)
        if self._features and features != self._features:
            raise OddEpisodeError(
                f"it has {_in_words(features)}; others {_in_words(self._features)}"
            )
        pictures = np.empty((len(episode.pictures), *self._size_px, 3), np.uint8)
        decode_frames(episode.video, episode.pictures, pictures)
        span = self._videos.add(episode.video, episode.first + episode.length)
        self._features = features
        task = episode.clip["source"] if self._task is None else self._task
        rows = {**episode.rows, **self._counters(episode.length, task)}
        values = {CAMERA: feature_statistics.pixels(pictures), **rows}
        self._statistics.add(values, len(pictures))
        row_bytes = sum(array[0].nbytes for array in rows.values())
        file = self._data.add(
            list(_rows(rows)), layout.schema_of_rows(rows), layout.MAX_DATA_MB * 2**20 // row_bytes
        )
        statistics = feature_statistics.of_episode(values, len(pictures))
        row = self._index_row(episode, task, span, file) | _flat(statistics)
        self._index.add([row], _schema_of_index(statistics), _EPISODES_PER_FILE)
        self.num_frames += episode.length
        self._num_episodes[episode.clip["split"]] += 1

    def _counters(self, length: int, task: str) -> dict[str, np.ndarray]:
        number = np.arange(length)
        values = {
            "timestamp": number / self._fps,
            "frame_index": number,
            "episode_index": np.full(length, self.num_episodes),
            "index": self.num_frames + number,
            "task_index": np.full(length, self._tasks.setdefault(task, len(self._tasks))),
        }
        return {name: values[name].astype(kind)[:, None] for name, kind in layout.COUNTERS.items()}

    def _index_row(self, episode: Episode, task: str, span: Span, file: int) -> dict[str, object]:
        start_s = span.start_s + episode.first / self._fps
        places = {
            "data": place(file),
            f"videos/{CAMERA}": place(span.file),
            "meta/episodes": place(self.num_episodes // _EPISODES_PER_FILE),
        }
        return {
            "episode_index": self.num_episodes,
            "tasks": [task],
            "length": episode.length,
            "dataset_from_index": self.num_frames,
            "dataset_to_index": self.num_frames + episode.length,
            f"videos/{CAMERA}/from_timestamp": start_s,
            f"videos/{CAMERA}/to_timestamp": start_s + episode.length / self._fps,
            **{f"{kind}/{key}": n for kind, where in places.items() for key, n in where.items()},
            **{name: episode.clip[name] for name in _OF_CLIP},
        }

    def close(self) -> None:
        """Stores the files that are being written, and last ``meta/info.json``."""
        self._videos.close()
        self._data.close()
        self._index.close()
        tasks = _Tables(self._out, layout.TASKS, self._data.path)
        rows = [
            {"task_index": number, layout.TASKS_INDEX: task} for task, number in self._tasks.items()
        ]
        tasks.add(rows, layout.tasks_schema(), len(rows))
        tasks.close()
        strict_json.write(
            storage.join(self._out, layout.STATS), self._statistics.result(), indent=1
        )
        counters = {
            name: {"dtype": kind, "shape": [1], "names": None}
            for name, kind in layout.COUNTERS.items()
        }
        described = layout.info(
            features={
                CAMERA: layout.camera(*self._size_px, self._fps, self._videos.pixel_format),
                **self._features,
                **counters,
            },
            fps=self._fps,
            num_frames=self.num_frames,
            num_tasks=len(self._tasks),
            num_episodes=self._num_episodes,
        )
        # Written last, because readers take a folder with this file for a dataset.
        strict_json.write(storage.join(self._out, layout.INFO), described, indent=1)


class _Tables:
    """Writes tables of one kind, one after the other.

    Args:
        out: URI of the dataset.
        template: Path of a table in the dataset.
        path: Local file for the table that is being written.
    """

    def __init__(self, out: str, template: str, path: Path) -> None:
        self.path = path
        self._out, self._template = out, template
        self._writer: TableWriter | None = None
        self._file, self._num_rows = -1, 0

    def add(self, rows: Sequence[Mapping[str, object]], schema: pa.Schema, max_rows: int) -> int:
        """Appends rows to one table, which no call splits. Returns the table's number."""
        if self._writer is None or self._num_rows + len(rows) > max_rows:
            self.close()
            self._writer = TableWriter(self.path, schema)
            self._file, self._num_rows = self._file + 1, 0
        for row in rows:
            self._writer.add(row)
        self._num_rows += len(rows)
        return self._file

    def close(self) -> None:
        """Stores the table that is being written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            name = self._template.format(**place(self._file))
            storage.upload(self.path, storage.join(self._out, name))


def _rows(columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, object]]:
    """Yields the rows of columns [T, D]; a vector of one number as the number."""
    lists = [(array[:, 0] if array.shape[1] == 1 else array).tolist() for array in columns.values()]
    for values in zip(*lists, strict=True):
        yield dict(zip(columns, values, strict=True))


def _flat(statistics: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {
        f"stats/{feature}/{name}": value
        for feature, found in statistics.items()
        for name, value in found.items()
    }


def _schema_of_index(statistics: Mapping[str, Mapping[str, object]]) -> pa.Schema:
    numbers = pa.list_(pa.float64())
    fields = [
        ("episode_index", pa.int64()),
        ("tasks", pa.list_(pa.string())),
        ("length", pa.int64()),
        ("dataset_from_index", pa.int64()),
        ("dataset_to_index", pa.int64()),
        (f"videos/{CAMERA}/from_timestamp", pa.float64()),
        (f"videos/{CAMERA}/to_timestamp", pa.float64()),
    ]
    for kind in ("data", f"videos/{CAMERA}", "meta/episodes"):
        fields += [(f"{kind}/{key}", pa.int64()) for key in place(0)]
    fields += [(name, pa.float64() if name.endswith("_s") else pa.string()) for name in _OF_CLIP]
    for feature, found in statistics.items():
        kind = pa.list_(pa.list_(numbers)) if feature == CAMERA else numbers
        fields += [
            (f"stats/{feature}/{name}", pa.list_(pa.int64()) if name == "count" else kind)
            for name in found
        ]
    return pa.schema(fields)


def _in_words(features: Mapping[str, Mapping[str, object]]) -> str:
    return ", ".join(
        f"{name} {feature['dtype']} {feature['shape']}" for name, feature in features.items()
    )
