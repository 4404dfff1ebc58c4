"""Reads RLDS datasets in TFRecord files: one record per episode, with JPEG or PNG pictures.

Every ``steps/observation/*`` that holds pictures is a camera. Records have no time stamps: their
rate is ``labels.fps``.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from data_pipelines.preprocess.clip.labels.read import (
    EpisodeLabels,
    LabelsConfig,
    episode_labels,
    joined,
)
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.file_kinds import labeled_format
from data_pipelines.preprocess.sources.list_videos import list_source_files
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.preprocess.sources.pictures import are_one_colour, open_pictures
from data_pipelines.preprocess.sources.tfrecord import Features, parse_example, read_records
from lafp import storage
from lafp.data.shards.format import Split
from lafp.video.decoders.base import VideoError

ACTION_KEY, STATE_KEY = "action", "observation/state"
_CAMERA_PREFIX = "steps/observation/"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")
# A feature of byte strings that are neither is a camera if its name contains one of these words:
# its pictures may be empty, or have another encoding.
_CAMERA_WORDS = ("image", "rgb", "camera")
_NUM_LISTED = 12
_ONCE_PER_STEP = ("is_first", "is_last", "is_terminal", "reward", "discount")


class Rlds:
    """Reads RLDS episodes."""

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Yields one item per file."""
        for file in list_source_files(source):
            if labeled_format(file.uri) == "rlds":
                yield VideoItem(
                    uri=file.uri,
                    num_bytes=file.num_bytes,
                    split=split,
                    labels_uri=file.uri,
                    reader="rlds",
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Yields every camera of every record."""
        with storage.local_file(item.uri) as path:
            for index, record in enumerate(read_records(path)):
                if time.monotonic() > using.deadline:
                    raise VideoError("timeout", f"before record {index}")
                yield from _open_record(record, f"{item.uri}#{index}", using)


def _open_record(record: bytes, uri: str, using: OpenWith) -> Iterator[Opened | Unusable]:
    try:
        features = parse_example(record)
    except (ValueError, KeyError) as error:
        yield Unusable(uri, "does_not_decode", f"not a tf.train.Example: {error}")
        return
    cameras = camera_names(features)
    if not cameras:
        detail = f"no JPEG or PNG in {_CAMERA_PREFIX}* among {_in_words(features)}"
        yield Unusable(uri, "no_video_stream", detail)
    episode_id = hashlib.sha256(record).hexdigest()[:32]
    rate = using.labels.rate()
    for camera in cameras:
        pictures = features[_CAMERA_PREFIX + camera]
        assert isinstance(pictures, list)
        camera_uri = f"{uri}/{camera}"
        if not any(pictures):
            yield Unusable(camera_uri, "blank", "all of its pictures are empty")
        elif are_one_colour(pictures):
            # Datasets with several robots pad missing cameras. Flags such as
            # ``episode_metadata/has_image_0`` do not help: they are all 0 in real files.
            yield Unusable(camera_uri, "blank", "all of its pictures are one colour")
        else:
            labels = partial(_labels, features, len(pictures), using.labels)
            yield open_pictures(
                pictures,
                camera_uri,
                episode_id,
                rate.fps,
                using.max_pixels,
                labels,
                is_rate_assumed=rate.is_assumed,
            )


def camera_names(features: Features) -> list[str]:
    """Lists an episode's cameras, including those that are padding or lack their first pictures."""
    return sorted(
        key.removeprefix(_CAMERA_PREFIX)
        for key, values in features.items()
        if key.startswith(_CAMERA_PREFIX) and _are_pictures(key, values)
    )


def _are_pictures(key: str, values: "list[bytes] | np.ndarray") -> bool:
    if isinstance(values, np.ndarray) or not values:
        return False
    is_called_so = any(word in key.lower() for word in _CAMERA_WORDS)
    return is_called_so or any(data.startswith(_MAGIC) for data in values)


def _in_words(features: Features) -> str:
    """Describes the features of a record, for a message."""
    listed = [
        f"{name} {'bytes' if isinstance(values, list) else values.dtype} [{len(values)}]"
        for name, values in sorted(features.items())
    ]
    more = f" and {len(listed) - _NUM_LISTED} more" if len(listed) > _NUM_LISTED else ""
    return ", ".join(listed[:_NUM_LISTED]) + more or "no features"


def _labels(features: Features, num_pictures: int, cfg: LabelsConfig) -> EpisodeLabels:
    num_steps = _num_steps(features)
    # Pictures and rows belong together by their position only, so their numbers must agree.
    if num_steps not in (None, num_pictures):
        raise VideoError("labels_mismatch", f"{num_pictures} pictures, {num_steps} steps")
    pick = partial(_rows, features, num_pictures)
    names = cfg.action_names(ACTION_KEY)
    action = joined(names, pick)
    if action is None:
        raise VideoError("no_labels", _no_action(features, names, num_pictures))
    return episode_labels(action, joined(cfg.state_names(STATE_KEY), pick), None)


def _no_action(features: Features, names: Sequence[str], num_steps: int) -> str:
    """Words the error about a missing action: the features that exist, and the key to set."""
    missing = next(name for name in names if _rows(features, num_steps, name) is None)
    parts = {
        key.removeprefix("steps/"): len(values) // num_steps
        for key, values in sorted(features.items())
        if key.startswith(f"steps/{missing}/") and isinstance(values, np.ndarray)
    }
    if parts:
        listed = ", ".join(f"{name} [{size}]" for name, size in parts.items())
        return (
            f"{missing!r} is a dict of {listed}. labels.action_parts names those that make the "
            f"action, e.g. labels.action_parts=[{','.join(parts)}]"
        )
    what = "no numbers in" if f"steps/{missing}" in features else "no"
    return (
        f"{what} 'steps/{missing}' among {_in_words(features)}. labels.action_key names the "
        "actions, without steps/"
    )


def _num_steps(features: Features) -> int | None:
    """Returns the length of the flags and scalars that RLDS has once per step, or None."""
    for name in _ONCE_PER_STEP:
        values = features.get(f"steps/{name}")
        if isinstance(values, np.ndarray):
            return len(values)
    return None


def _rows(features: Features, num_steps: int, name: str) -> np.ndarray | None:
    values = features.get(f"steps/{name}")
    if not isinstance(values, np.ndarray):
        return None
    if not len(values) or len(values) % num_steps:
        raise VideoError("labels_mismatch", f"{name}: {len(values)} numbers in {num_steps} steps")
    is_discrete = values.dtype == np.int64 and len(values) == num_steps
    return values if is_discrete else values.reshape(num_steps, -1)
