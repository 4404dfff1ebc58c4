"""A run with labeled clips and their latent actions, to be written as a LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.to_lerobot.job import Written, to_lerobot
from lafp import storage
from lafp.data.shards.clip_bytes import checked_bytes
from lafp.data.shards.format import Labels
from lafp.data.shards.sets import read_shard_entry
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import read_rows
from lafp.video import decode_clip
from tests.synthetic_latents import write_latents
from tests.synthetic_shards import write_shard_set

Z = 3


@dataclass(frozen=True)
class Clip:
    frames: np.ndarray
    labels: Labels
    split: str


def z_of(frame: np.ndarray, next_frame: np.ndarray) -> np.ndarray:
    """float32 [3]: differs from pair to pair, and float16 holds it exactly."""
    return np.float32([frame.argmax() % 512, next_frame.argmax() % 512, 1])


def write_run(folder: Path, frame_stack: int = 1, **kwargs) -> RunDir:
    """Writes a run of 12 labeled clips, 2 of them held out, and its latents ``videos``."""
    run = RunDir(str(folder))
    kinds = {"has_labels": True, "has_state": True, "num_val_clips": 2, "size_px": 32} | kwargs
    write_shard_set(Path(run.stage("shards/videos").uri), **kinds)
    write_latents(run, "videos", "videos", z_of, frame_stack)
    return run


def write_dataset(run: RunDir, out: Path | str, key="latent_action", task=None) -> Written | None:
    shards, latents = run.stage("shards/videos").uri, run.stage("latents/videos").uri
    return to_lerobot(shards, latents, str(out), key, task, print)


def clips_of(run: RunDir) -> dict[str, Clip]:
    """Clip id -> frames and labels, as the shards hold them."""
    uri, found = run.stage("shards/videos").uri, {}
    for row in read_rows(storage.join(uri, "manifest.parquet"), ["shard", "split"]):
        for location in read_shard_entry(uri, row["shard"]).clips:
            video, labels = checked_bytes(storage.join(uri, row["shard"]), location)
            labels = Labels.from_bytes(labels) if labels else Labels()
            found[location.clip_id] = Clip(decode_clip(video), labels, row["split"])
    return found
