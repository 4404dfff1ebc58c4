"""Reads the index of a LeRobot v3.0 dataset: which span of which file shows an episode."""

import io
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.preprocess.sources.lerobot.info import INFO, WAY_OUT, LeRobotInfo, fill_template
from data_pipelines.preprocess.sources.lerobot.spans import Span
from data_pipelines.preprocess.sources.lerobot.tables import EPISODE_INDEX
from lafp import storage
from lafp.config import ConfigError

_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def list_spans(
    info: LeRobotInfo,
) -> tuple[dict[tuple[int, str], list[tuple[str, Span]]], dict[str, Exception]]:
    """Maps episode and camera to the URI of the video file and the episode's span in it.

    An entry holds several spans only if rows of one episode differ. Files and rows of the index
    that cannot be read are mapped to their errors, by URI.

    Raises:
        ConfigError: ``meta/episodes`` holds something else.
    """
    found: dict[tuple[int, str], list[tuple[str, Span]]] = defaultdict(list)
    errors: dict[str, Exception] = {}
    for where, row in _index_rows(info):
        if isinstance(row, Exception):
            errors[where] = row
            continue
        for camera in (*info.cameras("video"), *info.cameras("image")):
            try:
                episode, span = _whole(row[EPISODE_INDEX]), _span(row, camera, info)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                errors[f"{where}/{camera}"] = error
                continue
            # Writers repeat rows. Equal ones are one span.
            if span not in found[episode, camera]:
                found[episode, camera].append(span)
    if not found and errors:
        where, cause = next(iter(errors.items()))
        raise ConfigError(f"{where} is not as in v3.0 of LeRobot's format: {cause!r}. {WAY_OUT}")
    if not found:
        raise ConfigError(f"{info.source} has {INFO} but no episodes in meta/episodes. {WAY_OUT}")
    return found, errors


def _index_rows(info: LeRobotInfo) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
    """Yields the URI and the content of each row of the index, or the error of a whole file."""
    keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = [EPISODE_INDEX, "length", "data/chunk_index", "data/file_index"]
    columns += [f"videos/{camera}/{key}" for camera in info.cameras("video") for key in keys]
    for file in storage.list_files(storage.join(info.source, "meta/episodes")):
        data = io.BytesIO(storage.read_bytes(file.uri))
        try:
            rows = pq.read_table(data, columns=columns).to_pylist()
        # The bytes are in memory, so storage raises nothing here. Python has no dates after the
        # year 9999, and so on.
        except (ArithmeticError, LookupError, ValueError, OSError, pa.ArrowException) as error:
            yield file.uri, error
            continue
        yield from ((f"{file.uri}#{number}", row) for number, row in enumerate(rows))


def _span(row: dict[str, Any], camera: str, info: LeRobotInfo) -> tuple[str, Span]:
    data_path = fill_template(
        info.paths.get("data_path", _DATA_PATH),
        chunk_index=_whole(row["data/chunk_index"]),
        file_index=_whole(row["data/file_index"]),
    )
    length = row.get("length")
    span: Span = info.promised(
        _whole(row[EPISODE_INDEX]), None if length is None else _whole(length)
    )
    span["data_uri"] = storage.join(info.source, data_path)
    if camera in info.cameras("image"):
        span |= {"from_s": None, "to_s": None, "camera_in_rows": camera}
        return f"{span['data_uri']}#{camera}", span
    path = fill_template(
        info.paths.get("video_path", _VIDEO_PATH),
        video_key=camera,
        chunk_index=_whole(row[f"videos/{camera}/chunk_index"]),
        file_index=_whole(row[f"videos/{camera}/file_index"]),
    )
    return storage.join(info.source, path), span | {
        "from_s": _seconds(row[f"videos/{camera}/from_timestamp"]),
        "to_s": _seconds(row[f"videos/{camera}/to_timestamp"]),
        "camera_in_rows": "",
    }


def _whole(value: Any) -> int:
    """Returns a whole number. Columns in which one row is empty are stored as floats."""
    if int(value) != value:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _seconds(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
