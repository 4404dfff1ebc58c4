"""What a stranger's shard set, latent set or model folder holds, and clips that storage changed."""

import json
import shutil
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import safetensors.torch
import torch

from lafp.config import ConfigError
from lafp.data.labels import action_spec, labeled_episodes, vector_dims
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import Labels
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import read_shard_entry, shards_sha256
from lafp.data.stored_latents import LatentReader, clips_without_latents, read_latent_entry
from lafp.finished.load import load_action_decoder
from lafp.finished.saved_model import load_model, save_model
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.runs.run_dir import RunDir
from lafp.storage.strict_json import DamagedError
from lafp.types import ActionSpec
from lafp.video import EncodeConfig, encode_clip
from lafp.video.clip_codec import decode_frames
from tests.chaos.fuzz import Target
from tests.chaos.mutations import mutated, mutated_bytes
from tests.synthetic_latents import write_latents
from tests.synthetic_shards import write_shard_set

Files = dict[str, bytes]
_ONE_LINE = (ConfigError, DamagedError)


def files_in(folder: Path) -> Files:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def changer(files: Files, names: list[str]) -> Callable[[Random], Files]:
    """Makes a function that changes one of the named files, sometimes two."""

    def make(rng: Random) -> Files:
        made = dict(files)
        for _ in range(rng.choice((1, 1, 1, 2))):
            name = rng.choice(names)
            made[name] = mutated(rng, name, made[name])
        return made

    return make


def write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _read_all(uri: str, latents: str | None = None) -> None:
    """Reads a set as training does. Damaged clips are replaced and counted there."""
    order = ClipOrder(shard_set=uri, split="train", seed=0)
    reader = ClipReader(uri, latents=latents)
    for ref in islice(order.visits(), order.num_clips):
        reader.read_sound_batch([ref])


def shard_set(folder: Path) -> Target:
    seed = Path(write_shard_set(folder / "seed", num_clips=2, has_labels=True, has_state=True))
    files = files_in(seed)
    make = changer(files, [name for name in files if not name.endswith(".tar")])
    uri = str(folder / "set")

    def parse(made: Files) -> None:
        read_shard_entry.cache_clear()
        write(folder / "set", made)
        action_spec(uri)
        vector_dims(uri)
        labeled_episodes(uri, "train")
        shards_sha256(uri)
        _read_all(uri)

    return Target(make, parse, (*_ONE_LINE, DamagedClipError))


def clips(folder: Path) -> Target:
    """Changed clips whose checksum is right, as a stranger can write them."""
    uri = write_shard_set(folder / "set", num_clips=1, has_labels=True, has_state=True)
    (tar,) = (folder / "set").glob("*.tar")
    entry = tar.with_suffix(".json")
    data, stored = tar.read_bytes(), json.loads(entry.read_text())
    (clip,) = stored["clips"]
    video = data[clip["video_offset"] :][: clip["video_bytes"]]
    labels = data[clip["labels_offset"] :][: clip["labels_bytes"]]
    odd_arrays = (np.zeros(()), np.zeros((9, 2), "M8[s]"), np.zeros((9, 2), complex), np.zeros(0))
    odd_arrays += (np.zeros((0, 3)), np.zeros((2, 2, 2)), np.array(["a"]), np.zeros(9, "i4,f4"))

    def make(rng: Random) -> tuple[bytes, bytes]:
        if rng.random() < 0.3:
            return mutated_bytes(rng, video), labels
        if rng.random() < 0.5:
            return video, mutated_bytes(rng, labels)
        names = ("true_action", "state", "action_noise", "condition", "optical_flow", "mask")
        chosen = rng.sample(names, rng.randint(1, 3))
        return video, Labels(**{name: rng.choice(odd_arrays) for name in chosen}).to_bytes()

    def parse(made: tuple[bytes, bytes]) -> None:
        read_shard_entry.cache_clear()
        tar.write_bytes(made[0] + made[1])
        here = {"video_offset": 0, "video_bytes": len(made[0]), "labels_offset": len(made[0])}
        here |= {"labels_bytes": len(made[1]), "crc32": zlib.crc32(made[0] + made[1])}
        entry.write_text(json.dumps(stored | {"clips": [clip | here]}))
        _read_all(uri)

    return Target(make, parse, (DamagedClipError,))


def clip_videos(_: Path) -> Target:
    rng = np.random.default_rng(0)
    seeds = [
        encode_clip(rng.integers(0, 255, (6, size, size, 3), np.uint8), 10.0, EncodeConfig())
        for size in (16, 24)
    ]

    def make(rng: Random) -> bytes:
        return mutated_bytes(rng, seeds[0], seeds)

    def parse(data: bytes) -> None:
        decode_frames(data, range(6), np.empty((6, 16, 16, 3), np.uint8))

    return Target(make, parse, (ValueError,))


def latents(folder: Path) -> Target:
    run = RunDir(str(folder / "run"))
    stage = run.stage("shards/videos")
    stage.begin({}, {})
    shards = write_shard_set(Path(stage.uri), num_clips=2)
    seed = Path(write_latents(run, "videos", "a", lambda a, b: np.ones(3, np.float32)))
    files = files_in(seed)
    names = ["latent_set.json", "train-000000.json", "train-000000.npy", "rejects.parquet"]
    uri = str(folder / "set")

    def parse(made: Files) -> None:
        read_latent_entry.cache_clear()
        write(folder / "set", made)
        clips_without_latents(uri)
        LatentReader(uri)
        _read_all(shards, uri)

    return Target(changer(files, names), parse, (*_ONE_LINE, DamagedClipError, RuntimeError))


def models(folder: Path) -> Target:
    """Model folders whose weights have the hash that the card says."""
    config = ActionDecoderConfig()
    action = ActionSpec(dim=2, low=(-1.0, -1.0), high=(1.0, 1.0))
    module = ActionDecoder(config, action, 3, 4)
    specs = {"action": action, "latent_action_dim": 3, "embed_dim": 4}
    specs |= {"policy": "latent_bc", "policy_sha256": "", "is_policy_tuned": False}
    uri = str(folder / "model")
    save_model(uri, kind="decoder", config=config, specs=specs, module=module, metrics={})
    files = files_in(folder / "model")
    tensors = {"a": torch.zeros(3), "b": torch.zeros((2, 2), dtype=torch.float16)}
    weights = files["model.safetensors"], safetensors.torch.save(tensors)
    change = changer(files, ["model.json"])

    def make(rng: Random) -> Files:
        if rng.random() < 0.5:
            return change(rng)
        import hashlib

        data = mutated_bytes(rng, rng.choice(weights), weights)
        card = json.loads(files["model.json"]) | {
            "weights_sha256": hashlib.sha256(data).hexdigest()
        }
        return {"model.safetensors": data, "model.json": json.dumps(card).encode()}

    def parse(made: Files) -> None:
        write(folder / "model", made)
        load_model(uri, "decoder")
        load_action_decoder(uri)

    return Target(make, parse, _ONE_LINE)


TARGETS = {
    "shard set": shard_set,
    "clips": clips,
    "clip videos": clip_videos,
    "latent set": latents,
    "model folder": models,
}
