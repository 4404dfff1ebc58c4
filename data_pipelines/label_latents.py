"""Computes the latent actions of a shard set with a finished LAM, one Ray task per shard.

The result depends on the LAM and the shards only. A shard's latents count as done only when all of
them are stored, so running the command again resumes.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.latent_tables import write_tables
from data_pipelines.on_ray.tasks import run_tasks
from lafp import storage
from lafp.config import ConfigError, may_change
from lafp.config.ranges import check_at_least
from lafp.data.shards.clip_tables import videos_of_clips
from lafp.data.shards.format import ClipLocation, ShardEntry, read_records
from lafp.data.shards.sets import read_manifest, read_shard_entry, shards_sha256
from lafp.data.stored_latents import SET_FILE, LatentSet, LatentShardWriter, entry_name
from lafp.finished.saved_model import read_card
from lafp.lam import Lam, load_lam
from lafp.storage import strict_json
from lafp.storage.temporary import TemporaryFolder
from lafp.video import decode_clip

_SIZES = ["shard", "num_clips"]


@dataclass(frozen=True, kw_only=True)
class LabelLatentsConfig:
    """Says which LAM computes the latent actions of which shard set."""

    name: str = "videos"
    """Name of the latent set, which is the run's folder latents/<name>."""
    shards: str | None = None
    """Shard set of videos; null takes the run's own ``shards/videos``."""
    lam: str | None = None
    """Folder of a finished LAM; null takes the run's own ``lam``."""
    batch_size: int = may_change(default=256)
    """Frame pairs per forward pass."""
    use_gpu: bool = may_change(default=False)
    """Gives each task one GPU besides its CPU."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must be letters, digits, - and _, got {self.name!r}.")


def label_latents(cfg: LabelLatentsConfig, shards: str, lam: str, uri: str) -> dict[str, object]:
    """Computes the latent set of one shard set below ``uri``; resumes an earlier run.

    Needs Ray to be initialized.

    Args:
        cfg: The job's config.
        shards: URI of the shard set.
        lam: URI of the LAM.
        uri: Folder of the stage, local or S3.

    Returns:
        The stage's summary.

    Raises:
        ConfigError: The shard set has no clips.
        StorageError: Reading or writing failed. Run again to resume.
    """
    sizes = {row["shard"]: row["num_clips"] for row in read_manifest(shards, _SIZES).to_pylist()}
    names = sorted(sizes)
    if not names:
        raise ConfigError(
            f"No clips in {shards}: all of its videos were taken down. Name another shard set."
        )
    found = {info.uri.rpartition("/")[2] for info in storage.list_files(uri)}
    missing = [name for name in names if entry_name(name) not in found]
    for _ in run_tasks(
        label_shard,
        [(shards, name, lam, uri, cfg.batch_size, cfg.use_gpu) for name in missing],
        sizes=[sizes[name] for name in missing],
        title=f"label_latents {cfg.name}",
        unit="clips",
        num_done=sum(sizes[name] for name in names if name not in missing),
        num_gpus=1 if cfg.use_gpu else 0,
    ):
        pass
    # The set's own file is written last, because its presence says that all latents are there.
    card, totals = read_card(lam, "lam"), write_tables(uri, names)
    spec = LatentSet(
        lam_sha256=card["weights_sha256"],
        shards_sha256=shards_sha256(shards),
        **totals,
    )
    strict_json.write(storage.join(uri, SET_FILE), spec, indent=1)
    return strict_json.plain(spec)


def shard_names(shards: str) -> list[str]:
    """Lists the file names of a set's shards, of all splits."""
    return sorted(read_manifest(shards, ["shard"])["shard"].to_pylist())


def label_shard(
    shards: str, shard: str, lam_uri: str, uri: str, batch_size: int, use_gpu: bool
) -> None:
    """Computes and stores the latents of every clip of one shard, as one Ray task.

    A clip that does not decode, or whose latents are not finite, becomes a reject.
    """
    entry = read_shard_entry(shards, shard)
    lam = _lam(lam_uri, "cuda" if use_gpu else "cpu")
    with (
        storage.local_file(storage.join(shards, shard)) as tar,
        TemporaryFolder() as folder,
        tar.open("rb") as file,
    ):
        # A damaged clip may still decode, to wrong pictures. Latents of it would be wrong without a
        # sign.
        is_whole = hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
        video_ids = _video_ids(shards, tar, entry, is_whole)
        writer = LatentShardWriter(Path(folder), shard, lam.latent_action_dim, lam.obs.frame_stack)
        for location in entry.clips:
            video_id = video_ids[location.clip_id]
            file.seek(location.video_offset)
            video = file.read(location.video_bytes) if is_whole else None
            try:
                latents = _infer_latent_actions(lam, location, video, batch_size)
            except _UnlabeledError as error:
                writer.reject(location.clip_id, video_id, error.reason, str(error))
            else:
                writer.add(location.clip_id, video_id, latents)
        made = writer.close()
        storage.upload(writer.path, storage.join(uri, made.file))
    # Written last, because ``label_latents`` takes the entry as the sign that the shard is done.
    strict_json.write(storage.join(uri, entry_name(shard)), made)


class _UnlabeledError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@functools.lru_cache(maxsize=1)
def _lam(uri: str, device: str) -> Lam:
    """Loads a LAM and keeps it for the next task of this worker process."""
    return load_lam(uri, device)


def _infer_latent_actions(
    lam: Lam, location: ClipLocation, video: bytes | None, batch_size: int
) -> np.ndarray:
    if video is None:
        raise _UnlabeledError("damaged", "the shard's checksum differs from the one in its entry")
    try:
        frames = decode_clip(video)
    except ValueError as error:
        raise _UnlabeledError("damaged", str(error)) from None
    if len(frames) != location.num_frames:
        detail = f"decoded to {len(frames)} frames, the entry says {location.num_frames}"
        raise _UnlabeledError("damaged", detail)
    latents = lam.label_clip(frames, batch_size)
    if not np.isfinite(latents).all():
        raise _UnlabeledError("not_finite", "the LAM's latents hold NaN or infinity")
    return latents


def _video_ids(shards: str, tar: Path, entry: ShardEntry, is_whole: bool) -> dict[str, str]:
    if is_whole:
        return {record.clip_id: record.video_id for record in read_records(tar)}
    return videos_of_clips(shards, [clip.clip_id for clip in entry.clips])
