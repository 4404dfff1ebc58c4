"""Ways to bring frame pairs from shards to a trainer, ours and others. See ``bench_ingest``.

A module of its own: what Ray's workers get must not lie in ``__main__``.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatch, MicroBatchLayout
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.windows import cut_windows, pixels_to_float
from lafp.train.config import IngestConfig
from lafp.train.context import to_clip_batches
from lafp.video.clip_codec import _EXACT
from ray_jobs.training.ingest import ray_micro_batches
from ray_jobs.training.worker import read_in_threads

CLIPS_PER_BATCH = 8
ENDLESS = 10**5


class Setting:
    """The shards, how many windows are taken of each clip, on how many cores. Picklable."""

    def __init__(self, shards: str, windows_per_clip: int, num_readers: int = 1) -> None:
        self.num_readers = num_readers
        self.tars = sorted(map(str, Path(shards).glob("train-*.tar")))
        self.window = WindowConfig(windows_per_clip=windows_per_clip)
        self.windows_per_batch = CLIPS_PER_BATCH * windows_per_clip
        order = ClipOrder(shard_set=shards, split="train", seed=0)
        draws = WindowDraws(window=self.window, seed=0)
        demand = ClipDemand(order=order, clips_per_step=CLIPS_PER_BATCH, draws=draws)
        self.demands = {"train": demand}
        self.plan = MicroBatchLayout(demands=self.demands, rank=0, world_size=1, num_rounds=1)


Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""o_t and o_{t+1}, float [B, 3, H, W], endless."""

# ---------------------------------------------------------------------------------------------
# Ours


def direct_clips(setting: Setting) -> Iterator[MicroBatch]:
    ingest = IngestConfig(mode="direct", num_readers=setting.num_readers, cache_bytes=0)
    return read_in_threads(setting.plan, 0, ingest)


def ray_clips(setting: Setting) -> Iterator[MicroBatch]:
    start_ray()
    return ray_micro_batches(setting.plan, 0, ENDLESS, setting.num_readers, 0)


def windows_of(batch: MicroBatch, setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    window = cut_windows(to_clip_batches(batch)["train"], setting.window, seed=0)
    return window.obs, window.next_obs


def _ours(clips: Callable[[Setting], Iterator[MicroBatch]], setting: Setting) -> Batches:
    return (windows_of(batch, setting) for batch in clips(setting))


def start_ray() -> None:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False


# ---------------------------------------------------------------------------------------------
# Theirs


def decode_pairs(video: bytes, num_pairs: int) -> np.ndarray:
    """Random pairs of a clip, uint8 [num_pairs, 2, H, W, 3]."""
    import decord

    reader = decord.VideoReader(io.BytesIO(video), num_threads=1)
    t = np.random.randint(len(reader) - 1, size=num_pairs)
    frames, at = np.unique(np.stack([t, t + 1], 1), return_inverse=True)
    return reader.get_batch(frames.tolist()).asnumpy()[at.reshape(-1, 2)]


def decode_sample(sample: dict[str, Any], num_pairs: int) -> np.ndarray:
    return decode_pairs(sample["mp4"], num_pairs)


def webdataset_decord(setting: Setting, pairs_per_visit: int = 1) -> Batches:
    import webdataset

    dataset = webdataset.WebDataset(setting.tars, shardshuffle=False).repeat().shuffle(32)
    dataset = dataset.map(partial(decode_sample, num_pairs=pairs_per_visit))
    loader = torch.utils.data.DataLoader(
        dataset,
        setting.windows_per_batch // pairs_per_visit,
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=_stacked,
    )
    return map(_floats, loader)


def webdataset_decord_once(setting: Setting) -> Batches:
    return webdataset_decord(setting, setting.window.windows_per_clip)


def ray_read_webdataset(setting: Setting) -> Batches:
    import ray

    def decoded(row: dict[str, Any]) -> dict[str, Any]:
        return {"pair": decode_pairs(bytes(row["mp4"]), 1)[0]}

    start_ray()
    for epochs in count(1):  # nobody wants to wait for the plan of an endless one
        tars = setting.tars * min(4**epochs, 64)
        dataset = ray.data.read_webdataset(tars, decoder=False, suffixes=["mp4"]).map(decoded)
        for batch in dataset.iter_torch_batches(batch_size=setting.windows_per_batch):
            yield _floats(batch["pair"])


def _stacked(pairs: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pairs))


def _floats(pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, 2, H, W, 3] -> o_t and o_{t+1} as ``cut_windows`` gives them."""
    obs, next_obs = pairs.permute(0, 1, 4, 2, 3).unbind(1)
    return pixels_to_float(obs), pixels_to_float(next_obs)


def limit(setting: Setting) -> Batches:
    """Gives empty batches: all that counts is done."""
    batch = torch.empty(setting.windows_per_batch, 0)
    num_clips = 0
    for tar in (tar for _ in count() for tar in setting.tars):
        with tarfile.open(tar) as members:
            for member in members:
                if member.name.endswith(".mp4"):
                    _decode_all(members.extractfile(member).read())  # type: ignore[union-attr]
                    num_clips += 1
                    if num_clips % CLIPS_PER_BATCH == 0:
                        yield batch, batch


def _decode_all(video: bytes) -> None:
    to_rgb = VideoReformatter()
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            to_rgb.reformat(frame, format="rgb24", interpolation=_EXACT, threads=1)


OURS = {"direct": direct_clips, "ray": ray_clips}
CONTENDERS: dict[str, Callable[[Setting], Batches]] = {
    **{name: partial(_ours, clips) for name, clips in OURS.items()},
    "webdataset_decord": webdataset_decord,
    "webdataset_decord_once": webdataset_decord_once,
    "ray_read_webdataset": ray_read_webdataset,
    "limit": limit,
}
