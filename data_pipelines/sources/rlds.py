"""RLDS datasets in TFRecord files: one record per episode, its pictures as JPEG or PNG.

Every ``steps/observation/*`` that holds colour pictures is a camera. Records have no time stamps:
their rate is ``labels.fps``.
"""

import hashlib
import io
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from data_pipelines.rows import VideoItem
from data_pipelines.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.sources.tfrecord import Features, parse_example, read_records
from data_pipelines.stages.list_videos import holds_files, list_source_files
from data_pipelines.stages.read_labels import EpisodeLabels, LabelsConfig, episode_labels
from lafp import storage
from lafp.data.shard_format import Split
from lafp.video.array_video import array_frames, pictures_info
from lafp.video.decoder import DecodedFrame, VideoError

ACTION_KEY, STATE_KEY = "action", "observation/state"
_CAMERA_PREFIX = "steps/observation/"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")


class Rlds:
    """Reads RLDS episodes."""

    def is_at(self, source: str) -> bool:
        """Whether there are TFRecord files among the first of the source."""
        return holds_files(source, _is_record_file)

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """One item per file."""
        for file in list_source_files(source):
            if _is_record_file(file.uri):
                yield VideoItem(
                    uri=file.uri,
                    num_bytes=file.num_bytes,
                    split=split,
                    labels_uri=file.uri,
                    reader="rlds",
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Every camera of every record."""
        with storage.local_file(item.uri) as path:
            for index, record in enumerate(read_records(path)):
                if time.monotonic() > using.deadline:
                    raise VideoError("timeout", f"before record {index}")
                yield from _open_record(record, f"{item.uri}#{index}", using)


def _open_record(record: bytes, uri: str, using: OpenWith) -> Iterator[Opened | Unusable]:
    try:
        features = parse_example(record)
    except (ValueError, KeyError) as error:
        yield Unusable(uri, "does_not_decode", f"no tf.train.Example: {error}")
        return
    cameras = camera_names(features)
    if not cameras:
        yield Unusable(uri, "no_video_stream", "the record holds no pictures")
    episode_id = hashlib.sha256(record).hexdigest()[:32]
    for camera in cameras:
        camera_uri = f"{uri}/{camera}"
        if _is_padding(features[_CAMERA_PREFIX + camera]):
            yield Unusable(camera_uri, "blank", "all of its pictures are one colour")
        else:
            yield _open_camera(features, camera, camera_uri, episode_id, using)


def camera_names(features: Features) -> list[str]:
    """The cameras of an episode, those that are only padding too."""
    return sorted(
        key.removeprefix(_CAMERA_PREFIX)
        for key, values in features.items()
        if key.startswith(_CAMERA_PREFIX) and _are_pictures(values)
    )


def _are_pictures(values: "list[bytes] | np.ndarray") -> bool:
    if isinstance(values, np.ndarray) or not values or not values[0].startswith(_MAGIC):
        return False
    try:
        with Image.open(io.BytesIO(values[0])) as picture:
            is_depth = picture.mode[0] in "IF"
            return not is_depth
    except OSError:
        return False


def _is_padding(values: "list[bytes] | np.ndarray") -> bool:
    """Datasets with several robots pad missing cameras with blank pictures.

    (Flags such as ``episode_metadata/has_image_0`` do not tell: real files have them all 0.)
    """
    assert isinstance(values, list)
    if any(data != values[0] for data in values):
        return False
    try:
        with Image.open(io.BytesIO(values[0])) as picture:
            return bool(np.ptp(np.asarray(picture)) == 0)
    except OSError:
        return False


def _open_camera(
    features: Features, camera: str, uri: str, episode_id: str, using: OpenWith
) -> Opened | Unusable:
    pictures = features[_CAMERA_PREFIX + camera]
    assert isinstance(pictures, list)
    with Image.open(io.BytesIO(pictures[0])) as picture:
        width, height = picture.size
    if width * height > using.max_pixels:
        return Unusable(uri, "too_large", f"{width}x{height}")
    fps = using.labels.fps
    return Opened(
        uri=uri,
        video_id=hashlib.sha256(b"".join(pictures)).hexdigest()[:32],
        episode_id=episode_id,
        num_bytes=sum(map(len, pictures)),
        info=pictures_info(len(pictures), height, width, fps, codec="jpeg"),
        frames=partial(_frames, pictures, (width, height), fps),
        labels=partial(_labels, features, len(pictures), using.labels),
    )


def _frames(
    pictures: Sequence[bytes], size: tuple[int, int], fps: float, width_px: int, height_px: int
) -> Iterator[DecodedFrame]:
    return array_frames((_pixels(data, size) for data in pictures), fps, width_px, height_px)


def _pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.size != size:
            raise ValueError(f"a picture of {picture.size} among those of {size}")
        return np.asarray(picture.convert("RGB"))


def _labels(features: Features, num_steps: int, cfg: LabelsConfig) -> EpisodeLabels:
    action_key = f"steps/{cfg.action_key or ACTION_KEY}"
    action = _rows(features, action_key, num_steps)
    if action is None:
        names = sorted(key.removeprefix("steps/") for key in features if key.startswith("steps/"))
        raise VideoError("no_labels", f"no {action_key!r} among {', '.join(names)}")
    state = _rows(features, f"steps/{cfg.state_key or STATE_KEY}", num_steps)
    return episode_labels(action, state, None)


def _rows(features: Features, key: str, num_steps: int) -> np.ndarray | None:
    values = features.get(key)
    if not isinstance(values, np.ndarray):
        return None
    if not len(values) or len(values) % num_steps:
        raise VideoError("labels_mismatch", f"{key}: {len(values)} numbers in {num_steps} steps")
    is_discrete = values.dtype == np.int64 and len(values) == num_steps
    return values if is_discrete else values.reshape(num_steps, -1)


def _is_record_file(uri: str) -> bool:
    return ".tfrecord" in uri.rpartition("/")[2]
