"""Labeled episodes: ``.npz``, HDF5 and LeRobot datasets, and masks."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.hdf5.trajectories import Hdf5
from data_pipelines.preprocess.sources.listing import list_source
from lafp.config import ConfigError
from tests.chaos.fuzz import Target
from tests.chaos.mutations import mutated_bytes
from tests.chaos.targets.sources import CFG, go_through, png
from tests.chaos.targets.stored import Files, changer, files_in, write
from tests.data_pipelines.preprocess.sources.lerobot import test_v2 as test_lerobot_v2
from tests.data_pipelines.preprocess.sources.lerobot import test_v3 as test_lerobot_v3
from tests.synthetic_video import moving_square, write_video

_DTYPES = ("f4", "f8", "i8", "u8", "?", "U3", "S4", "M8[s]", "c8", "f2", "i4,f4", "u1")
_SHAPES = ((), (0,), (4,), (5,), (4, 2), (0, 2), (4, 0), (1, 4, 2), (2, 4, 2), (4, 2, 2))
_KEYS = ("action", "state", "timestamp", "condition", "action_noise", "action_low", "action_high")


def _npz(rng: Random, num_stacked: int) -> bytes:
    lead = (num_stacked,) if num_stacked else ()
    arrays: dict[str, np.ndarray] = {
        "action": np.zeros((*lead, 4, 2), np.float32),
        "state": np.zeros((*lead, 4, 3), np.float32),
        "image_0": np.zeros((*lead, 4, 16, 16, 3), np.uint8),
    }
    for _ in range(rng.choice((0, 1, 2, 3))):
        odd = np.zeros(rng.choice(_SHAPES), rng.choice(_DTYPES))
        if odd.dtype.kind == "f" and rng.random() < 0.5:
            odd[...] = rng.choice((np.nan, np.inf, 1e30, -1))
        arrays[rng.choice((*_KEYS, "image_0"))] = odd
    if rng.random() < 0.2:
        del arrays[rng.choice(list(arrays))]
    made = io.BytesIO()
    (np.savez if rng.random() < 0.7 else np.savez_compressed)(made, **arrays)
    return mutated_bytes(rng, made.getvalue()) if rng.random() < 0.5 else made.getvalue()


def npz(folder: Path) -> Target:
    video = str(write_video(folder / "v.mp4", moving_square(4, 32, 32)))
    path = folder / "x.npz"

    def make(rng: Random) -> bytes:
        return _npz(rng, rng.choice((0, 2)))

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        whole = VideoItem(uri=str(path), num_bytes=1, split=None, labels_uri=str(path))
        go_through([whole, replace(whole, uri=video)])

    return Target(make, parse, ())


def hdf5(folder: Path) -> Target:
    import h5py

    seed, path = folder / "seed.h5", folder / "x.hdf5"
    with h5py.File(seed, "x") as file:
        for name in "01":
            group = file.create_group(name)
            group["obs"], group["actions"] = moving_square(4, 16, 16), np.zeros((4, 2), np.float32)
    with h5py.File(folder / "aloha.h5", "x") as file:
        pictures = np.array([np.frombuffer(png(t), np.uint8) for t in (9, 9, 9)])
        file["observations/images/top"], file["action"] = pictures, np.zeros((3, 2))
    seeds = [seed.read_bytes(), (folder / "aloha.h5").read_bytes()]

    def make(rng: Random) -> bytes:
        return mutated_bytes(rng, rng.choice(seeds), seeds, most=6)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        go_through(Hdf5().list_items(str(path), None))

    return Target(make, parse, ())


def _dataset(folder: Path, files: Files, names: list[str]) -> Target:
    source = folder / "set"

    def parse(made: Files) -> None:
        write(source, made)
        items = [i for i in list_source(str(source), None, CFG) if isinstance(i, VideoItem)]
        go_through(items[:2])

    return Target(changer(files, names), parse, (ConfigError,))


def lerobot_v2(folder: Path) -> Target:
    features = test_lerobot_v2.FEATURES | {"observation.images.wrist": {"dtype": "depth"}}
    test_lerobot_v2.write_dataset(folder / "seed", num_episodes=1, num_rows=4, features=features)
    files = files_in(folder / "seed")
    shutil.rmtree(folder / "seed")
    return _dataset(folder, files, [name for name in files if not name.endswith(".mp4")])


def lerobot_v3(folder: Path) -> Target:
    test_lerobot_v3.write_dataset(folder / "seed")
    files = files_in(folder / "seed")
    shutil.rmtree(folder / "seed")
    return _dataset(folder, files, [name for name in files if not name.endswith(".mp4")])


def masks(folder: Path) -> Target:
    """Mask videos, and pictures of masks."""
    video = str(write_video(folder / "v.mp4", moving_square(4, 32, 32)))
    white = np.full((4, 32, 32, 3), 255, np.uint8)
    seed = write_video(folder / "seed.mp4", white).read_bytes()
    pictures = [png(value, 32) for value in (0, 200)]

    def make(rng: Random) -> Files:
        if rng.random() < 0.4:
            return {"v.mp4": mutated_bytes(rng, seed)}
        found = {f"v/{t}.png": rng.choice(pictures) for t in range(rng.choice((4, 4, 3)))}
        name = rng.choice(list(found))
        return found | {name: mutated_bytes(rng, found[name], pictures)}

    def parse(made: Files) -> None:
        write(folder / "masks", made)
        uri = str(folder / "masks" / "v")
        item = VideoItem(uri=video, num_bytes=1, split=None, masks_uri=uri)
        go_through([item], replace(CFG, labels=None))

    return Target(make, parse, ())


TARGETS = {
    "npz": npz,
    "hdf5": hdf5,
    "lerobot v2": lerobot_v2,
    "lerobot v3": lerobot_v3,
    "masks": masks,
}
