"""Latent sets without a LAM: any function of two frames is z."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.latent_tables import write_tables
from lafp.data.shards.format import entry_name
from lafp.data.shards.sets import read_shard_entry, shards_sha256
from lafp.data.stored_latents import SET_FILE, LatentSet, LatentShardWriter
from lafp.runs.run_dir import RunDir
from lafp.storage import strict_json
from lafp.storage.tables import read_rows
from lafp.video import decode_clip


def write_latents(
    run: RunDir,
    shards: str,
    name: str,
    z_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    frame_stack: int = 1,
) -> str:
    """Writes ``latents/<name>`` for a shard set of the run, as `label_latents` does.

    Args:
        run: The run.
        shards: Name of the shard set.
        name: Name of the latent set.
        z_of: Two frames, uint8 [H, W, 3], -> float32 [Z].
        frame_stack: The first pair of a clip is made of its frames F - 1 and F.
    """
    stage, source = run.stage(f"latents/{name}"), run.stage(f"shards/{shards}")
    folder = Path(stage.uri)
    stage.begin({}, {})
    names = [row["shard"] for row in read_rows(source.path("manifest.parquet"), ["shard"])]
    for shard in names:
        data = Path(source.path(shard)).read_bytes()
        writer = None
        for clip in read_shard_entry(source.uri, shard).clips:
            video = data[clip.video_offset : clip.video_offset + clip.video_bytes]
            frames = decode_clip(video)
            pairs = itertools.pairwise(frames[frame_stack - 1 :])
            latents = np.stack([z_of(*pair) for pair in pairs]).astype(np.float32)
            writer = writer or LatentShardWriter(folder, shard, latents.shape[1], frame_stack)
            videos = read_rows(
                source.path("clips/part-00000.parquet"),
                ["video_id"],
                [("clip_id", "=", clip.clip_id)],
            )
            writer.add(clip.clip_id, videos[0]["video_id"], latents)
        strict_json.write(stage.path(entry_name(shard)), writer.close())
    totals = write_tables(stage.uri, names)
    sha256 = shards_sha256(source.uri)
    strict_json.write(
        stage.path(SET_FILE), LatentSet(lam_sha256="0" * 64, shards_sha256=sha256, **totals)
    )
    stage.finish({})
    return stage.uri
