"""Reads the clips of a shard set and their latent actions as episodes, one by one."""

# Shape suffixes in this file: T rows of an episode, D numbers of a feature.

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any
from zipfile import BadZipFile

import numpy as np

from data_pipelines.to_lerobot.layout import ACTION, CONDITION, STATE, TRUE_ACTION
from lafp import storage
from lafp.data.shards.clip_bytes import checked_bytes
from lafp.data.shards.clip_tables import clip_files, clip_rows
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import ClipLocation, Labels
from lafp.data.shards.sets import read_manifest, read_shard_entry
from lafp.data.stored_latents import REJECTS_FILE, ClipReject, LatentReader
from lafp.storage.tables import iter_batches, read_records, read_table

_COLUMNS = ["clip_id", "video_id", "video_uri", "source", "split", "start_s", "end_s"]
PICTURES = 4
"""Number of frames of each episode that the statistics of the pictures see."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Holds the frames of one clip that have a latent action."""

    clip: dict[str, Any]
    """Columns of the clip's row in the table of clips."""
    shard: str
    video: bytes
    """The whole clip."""
    num_frames: int
    """Number of frames of the whole clip."""
    first: int
    """Frame of the clip that belongs to row 0."""
    rows: dict[str, np.ndarray]
    """Feature -> [T, D]."""

    @property
    def length(self) -> int:
        """Returns T."""
        return len(next(iter(self.rows.values())))

    @property
    def pictures(self) -> list[int]:
        """Returns frames of the clip, evenly spaced over the episode."""
        times = np.linspace(self.first, self.first + self.length - 1, PICTURES)
        return sorted(set(times.round().astype(int).tolist()))

    def reject(self, reason: str, detail: str) -> ClipReject:
        """Makes the row that says why this clip is left out."""
        return ClipReject(
            clip_id=self.clip["clip_id"],
            video_id=self.clip["video_id"],
            shard=self.shard,
            reason=reason,
            detail=detail,
        )


def rates_of(shards: str) -> dict[float, int]:
    """Counts the clips of each rate, in frames per second."""
    return Counter(row["fps"] for row in clip_rows(shards, ["fps"]))


def read_episodes(shards: str, latents: str, latent_key: str) -> Iterator[Episode | ClipReject]:
    """Yields an episode for every clip, or why there is none; first the clips of split ``train``.

    Args:
        shards: URI of the shard set.
        latents: URI of its latent set.
        latent_key: Name of the feature of the latent actions. If it is ``action``, the true actions
            are named ``true_action``.
    """
    found = read_records(ClipReject, storage.join(latents, REJECTS_FILE))
    without_latents = {reject.clip_id: reject for reject in found}
    reader = LatentReader(latents)
    manifest = read_manifest(shards, ["shard", "split"]).to_pylist()
    with ExitStack() as stack:
        files = [_local_file(uri, stack) for uri in clip_files(shards)]
        files_of = defaultdict[str, list[str]](list)
        for file in files:
            for name in read_table(file, ["shard"])["shard"].unique().to_pylist():
                files_of[name].append(file)
        for row in sorted(manifest, key=lambda row: (row["split"] != "train", row["shard"])):
            shard = row["shard"]
            of_files = (iter_batches(file, _COLUMNS, {"shard": shard}) for file in files_of[shard])
            batches = chain.from_iterable(of_files)
            by_id = {clip["clip_id"]: clip for batch in batches for clip in batch.to_pylist()}
            with _shard_file(storage.join(shards, shard)) as tar:
                for location in read_shard_entry(shards, shard).clips:
                    yield without_latents.get(location.clip_id) or _read(
                        by_id[location.clip_id], shard, tar, location, reader, latent_key
                    )


def _local_file(uri: str, stack: ExitStack) -> str:
    """Returns the URI of a local copy until the stack is closed; of the file itself if local."""
    return storage.absolute(str(stack.enter_context(storage.local_file(uri))))


@contextmanager
def _shard_file(uri: str) -> Iterator[str]:
    """Yields the URI of a local copy of a shard; the shard's own if it is local or missing."""
    # One download of the shard instead of two requests for each of its clips.
    if not storage.is_remote(uri) or not storage.is_file(uri):
        yield uri
        return
    with storage.local_file(uri) as path:
        yield storage.absolute(str(path))


def _read(
    clip: dict[str, Any],
    shard: str,
    tar: str,
    location: ClipLocation,
    reader: LatentReader,
    latent_key: str,
) -> Episode | ClipReject:
    rejected = partial(ClipReject, clip_id=clip["clip_id"], video_id=clip["video_id"], shard=shard)
    try:
        video, labels_data = checked_bytes(tar, location)
        latents = reader.read(shard, location)
        labels = Labels.from_bytes(labels_data) if labels_data else Labels()
    except DamagedClipError as error:
        return rejected(reason=error.reason, detail=str(error))
    except (ValueError, BadZipFile) as error:
        return rejected(reason="undecodable", detail=str(error))
    # Frames without a pair have no z: the last one, and those before the first whole stack.
    first, end = reader.spec.frame_stack - 1, location.num_frames - 1
    if end <= first:
        return rejected(reason="too_short", detail=f"it has {location.num_frames} frames")
    rows = {latent_key: latents, **_label_rows(labels, latent_key, location.num_frames)}
    if odd := [name for name, array in rows.items() if len(array) != location.num_frames]:
        detail = f"{odd[0]} has {len(rows[odd[0]])} rows, the clip {location.num_frames} frames"
        return rejected(reason="labels_mismatch", detail=detail)
    return Episode(
        clip=clip,
        shard=shard,
        video=video,
        num_frames=location.num_frames,
        first=first,
        rows={name: array[first:end] for name, array in rows.items()},
    )


def _label_rows(labels: Labels, latent_key: str, num_frames: int) -> dict[str, np.ndarray]:
    """Returns the labels that a clip has, each [T, D]."""
    condition = labels.condition
    found = {
        TRUE_ACTION if latent_key == ACTION else ACTION: labels.true_action,
        STATE: labels.state,
        CONDITION: None if condition is None else np.tile(condition, (num_frames, 1)),
    }
    return {
        # Discrete actions are [T].
        name: array[:, None] if array.ndim == 1 else array
        for name, array in found.items()
        if array is not None
    }
