"""Reads LeRobot cameras of dtype ``image``, whose pictures lie in the episode's own rows."""

import pyarrow as pa

from data_pipelines.preprocess.sources.lerobot.tables import (
    Promised,
    column_values,
    rows_of_frames,
    table_labels,
)
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.preprocess.sources.pictures import open_pictures
from lafp.video.decoders.base import VideoError


def open_rows(
    table: pa.Table, camera: str, promised: Promised, uri: str, episode_id: str, using: OpenWith
) -> Opened | Unusable:
    """Opens one episode of one camera as a video. A frame without a row counts as damaged."""
    if camera not in table.column_names:
        return Unusable(uri, "missing_file", f"episode {promised.episode} has no column {camera!r}")
    num_frames = len(table) if promised.length is None else promised.length
    rate = using.labels.rate(promised.fps)
    try:
        rows, _ = rows_of_frames(table, num_frames, promised, using.labels)
        cells = column_values(table, camera)
    except VideoError as error:
        return Unusable(uri, error.reason, f"episode {promised.episode}: {error.detail}")
    pictures = [_picture(cells[row]) if row >= 0 else b"" for row in rows.tolist()]
    if not any(pictures):
        detail = f"episode {promised.episode} has no pictures in column {camera!r}"
        return Unusable(uri, "missing_file", detail)
    return open_pictures(
        pictures,
        uri,
        episode_id,
        rate.fps,
        using.max_pixels,
        lambda: table_labels(table, num_frames, promised, using.labels),
        is_rate_assumed=rate.is_assumed,
    )


def _picture(cell: object) -> bytes:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else b""
