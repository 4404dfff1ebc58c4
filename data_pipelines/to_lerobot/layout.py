"""Says how LeRobot v3.0 lays out a dataset: names of files and features, and ``meta/info.json``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lafp.storage import strict_json

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASKS_INDEX = "__index_level_0__"
CAMERA = "observation.images.main"
ACTION, STATE = "action", "observation.state"
TRUE_ACTION, CONDITION = "true_action", "condition"
FILES_PER_CHUNK, MAX_DATA_MB, MAX_VIDEO_MB = 1000, 100, 200
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns that every dataset has, one number per row."""


def place(number: int) -> dict[str, int]:
    """Returns chunk and file of the n-th file of one kind."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def features_of(rows: Mapping[str, np.ndarray]) -> dict[str, dict[str, object]]:
    """Describes the columns of an episode, arrays [T, D], as ``info.json`` does."""
    return {
        name: {"dtype": array.dtype.name, "shape": list(array.shape[1:]), "names": None}
        for name, array in rows.items()
    }


def schema_of_rows(rows: Mapping[str, np.ndarray]) -> "pa.Schema":
    """Returns the columns of the files below ``data/``. Vectors of one number are plain numbers."""
    import pyarrow as pa

    types = {
        name: (pa.from_numpy_dtype(array.dtype), array.shape[1]) for name, array in rows.items()
    }
    return pa.schema(
        [(name, kind if dim == 1 else pa.list_(kind, dim)) for name, (kind, dim) in types.items()]
    )


def tasks_schema() -> "pa.Schema":
    """Returns the columns of ``meta/tasks.parquet``: the table of a pandas data frame.

    LeRobot reads the text of a task from the index of the data frame, which pandas restores from
    the metadata of the schema.
    """
    import pyarrow as pa

    number = {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    text = {"name": None, "pandas_type": "unicode", "numpy_type": "object"}
    described = {
        "index_columns": [TASKS_INDEX],
        "column_indexes": [],
        "columns": [
            number | {"field_name": "task_index", "metadata": None},
            text | {"field_name": TASKS_INDEX, "metadata": None},
        ],
        "pandas_version": "2.2.0",
    }
    fields = [("task_index", pa.int64()), (TASKS_INDEX, pa.string())]
    return pa.schema(fields, metadata={"pandas": strict_json.dumps(described)})


def camera(height_px: int, width_px: int, fps: float, pixel_format: str) -> dict[str, object]:
    """Describes the camera as ``info.json`` does."""
    return {
        "dtype": "video",
        "shape": [height_px, width_px, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height_px,
            "video.width": width_px,
            "video.codec": "h264",
            "video.pix_fmt": pixel_format,
            "video.is_depth_map": False,
            "video.fps": whole_if_possible(fps),
            "video.channels": 3,
            "has_audio": False,
        },
    }


def whole_if_possible(fps: float) -> float:
    """Returns the rate as an integer where it is one, as LeRobot writes it."""
    return int(fps) if fps == int(fps) else fps


def info(
    features: Mapping[str, object],
    fps: float,
    num_frames: int,
    num_tasks: int,
    num_episodes: Mapping[str, int],
) -> dict[str, object]:
    """Returns the content of ``meta/info.json``.

    Args:
        features: Name of each feature -> its description.
        fps: Frames per second of all episodes.
        num_frames: Rows of the dataset.
        num_tasks: Texts in ``meta/tasks.parquet``.
        num_episodes: Number of episodes by split, in the order of the episodes.
    """
    splits, first = {}, 0
    for split, num in num_episodes.items():
        splits[split] = f"{first}:{first + num}"
        first += num
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": first,
        "total_frames": num_frames,
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": MAX_DATA_MB,
        "video_files_size_in_mb": MAX_VIDEO_MB,
        "fps": whole_if_possible(fps),
        "splits": splits,
        "data_path": DATA,
        "video_path": VIDEOS,
        "features": dict(features),
    }
