"""Writes one clip with its latent actions and labels as a recording of Rerun (``.rrd``).

The viewer (``pip install rerun-sdk``, ``rerun clip.rrd``) shows pictures and curves over one time.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import clip_rows
from lafp.data.shards.damage import DamagedClipError
from lafp.data.stored_latents import LatentReader
from lafp.storage.temporary import TemporaryFolder
from lafp.view.stored_clips import MissingError, StoredClips
from lafp.view.viewed_sets import ViewedSet

_PICTURES, _TIME, _FRAME = "video", "time", "frame"


def check_installed() -> None:
    """Raises ConfigError if the package that writes recordings is missing."""
    if find_spec("rerun") is None:
        raise ConfigError(
            "--rrd needs the package rerun-sdk, which is not installed. Install it with: "
            "pip install 'lafp[rerun]'"
        )


def write_recording(sets: Sequence[ViewedSet], clip_id: str | None, out: str) -> str:
    """Writes a clip of the sets to ``out``, and says in a line what it holds.

    Frame t and what belongs to it lie at the same time: the true action at t, and as
    ``latents/NAME`` the z of the frames t and t + 1.

    Args:
        sets: Shard sets that are open.
        clip_id: The clip; None takes the first.
        out: URI of the file, local or S3.

    Raises:
        ConfigError: The sets have no such clip, or it cannot be read.
    """
    import rerun as rr

    viewed, record = _find(sets, clip_id)
    shard, clip = str(record["shard"]), str(record["clip_id"])
    try:
        clips = StoredClips(viewed)
        place = clips.location(shard, clip)
        pictures = [clips.frame(shard, clip, t) for t in range(place.num_frames)]
        arrays = {each["name"]: np.array(each["dims"]).T for each in clips.labels(shard, clip)}
        for name, uri in viewed.latents.items():
            reader = LatentReader(uri)
            first = reader.spec.frame_stack - 1
            pairs_TZ = reader.read(shard, place)[: place.num_frames - 1]
            arrays[f"latents/{name}"] = np.concatenate(
                [np.full_like(pairs_TZ[:first], np.nan), pairs_TZ[first:]]
            )
    except (MissingError, DamagedClipError, RuntimeError) as error:
        raise ConfigError(str(error)) from None
    arrays = {name: array for name, array in arrays.items() if array.ndim == 2 and array.size}
    with TemporaryFolder() as folder:
        path = Path(folder) / "clip.rrd"
        with rr.RecordingStream(f"lafp {viewed.name}", recording_id=clip) as recording:
            recording.save(path)
            for t, picture in enumerate(pictures):
                recording.set_time(_FRAME, sequence=t)
                recording.set_time(_TIME, duration=t / record["fps"])
                recording.log(_PICTURES, rr.EncodedImage(contents=picture, media_type="image/jpeg"))
                for name, array in arrays.items():
                    if t < len(array) and np.isfinite(array[t]).all():
                        recording.log(name, rr.Scalars(array[t]))
            recording.flush()
            recording.disconnect()
        storage.upload(path, out)
    return f"{clip} of {viewed.name}: {', '.join([f'{len(pictures)} frames', *arrays])}"


def _find(sets: Sequence[ViewedSet], clip_id: str | None) -> tuple[ViewedSet, dict[str, Any]]:
    import pyarrow.compute as pc

    wanted = None if clip_id is None else pc.field("clip_id") == clip_id
    for viewed in sets:
        columns = ["clip_id", "shard", "fps"]
        rows = clip_rows(viewed.uri, columns, wanted) if viewed.clips else iter(())
        for row in rows:
            return viewed, row
    names = ", ".join(viewed.name for viewed in sets)
    if clip_id is None:
        raise ConfigError(f"There is no clip in {names}. Name a shard set that has clips.")
    raise ConfigError(
        f"There is no clip {clip_id} in {names}. Give --clip another id: `lafp view` without --rrd "
        "lists the clips."
    )
