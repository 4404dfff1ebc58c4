"""Reads the micro-batches of one rank for each step, from all streams of a task.

Needs no torch, because it also runs in Ray's readers.
"""

import math
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from lafp.config import ConfigError
from lafp.data.order.clips import ClipRef
from lafp.data.order.demand import ClipDemand, ClipStream
from lafp.data.shards.cache import ClipCache
from lafp.data.shards.format import mask_shape
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set
from lafp.data.stored_latents import open_latent_set

MicroBatch = dict[str, dict[str, np.ndarray]]
"""Name of a stream -> field of ``ClipBatch`` -> array."""


@dataclass(frozen=True, kw_only=True)
class MicroBatchLayout:
    """Says which clips one rank reads. Picklable, because readers in other processes get it."""

    demands: Mapping[str, ClipDemand]
    rank: int
    world_size: int
    num_rounds: int
    """Micro-batches per step and rank, for gradient accumulation."""

    def __post_init__(self) -> None:
        parts = self.world_size * self.num_rounds
        for name, demand in self.demands.items():
            if demand.clips_per_step % parts:
                raise ConfigError(
                    f"The stream '{name}' takes {demand.clips_per_step} clips per step, which do "
                    f"not divide among {self.world_size} workers x {self.num_rounds} "
                    "micro-batches. Change the batch size, windows_per_clip, num_workers or "
                    "gradient_accumulation."
                )

    @property
    def step_num_bytes(self) -> int:
        """Returns the number of bytes that one rank reads per step."""
        return sum(
            demand.clips_per_step // self.world_size * sent_num_bytes(demand)
            for demand in self.demands.values()
        )


def clip_num_bytes(demand: ClipDemand, max_frames: int | None = None) -> int:
    """Returns the bytes of frames, masks, optical flow and latent actions of the longest clip.

    Args:
        demand: The stream.
        max_frames: If not None, counts at most this many frames of the clip.
    """
    specs = [open_shard_set(uri) for uri in demand.order.shard_sets]
    spec, length = specs[0], max(s.max_clip_frames for s in specs)
    num_frames = length if max_frames is None else min(max_frames, length)
    num_bytes = num_frames * spec.height_px * spec.width_px * 3
    if any(s.num_masked_clips for s in specs):
        num_bytes += math.prod(mask_shape(num_frames, spec.height_px, spec.width_px))
    if spec.optical_flow_size_px is not None:
        # Two axes of float16. Optical flow and latents are sent for all frames, so ``max_frames``
        # does not count.
        num_bytes += length * 2 * 2 * math.prod(spec.optical_flow_size_px)
    if demand.latents is not None:
        num_bytes += length * 4 * open_latent_set(demand.latents).latent_action_dim
    return num_bytes


def sent_num_bytes(demand: ClipDemand) -> int:
    """Returns ``clip_num_bytes`` with only the frames that the clip's windows need."""
    return clip_num_bytes(demand, demand.draws.max_frames if demand.draws else None)


class MicroBatchReader:
    """Reads the micro-batches of any step. Only an earlier step than the last needs a seek.

    Args:
        layout: Names the clips of each micro-batch.
        cache_bytes: Size of the cache of decoded frames.
        num_threads: Number of decoding threads, one of which is the caller's.
    """

    def __init__(
        self, layout: MicroBatchLayout, cache_bytes: int = 0, num_threads: int = 1
    ) -> None:
        self.layout = layout
        cache = ClipCache(cache_bytes)
        pool = ThreadPoolExecutor(num_threads, "decode") if num_threads > 1 else None
        self._readers = {
            name: ClipReader(demand.order.shard_sets, cache, demand.latents, demand.draws, pool)
            for name, demand in layout.demands.items()
        }
        self._refs: dict[str, Iterator[ClipRef]] = {}
        self._next_step = -1

    def read(self, step: int) -> Iterator[MicroBatch]:
        """Yields the ``num_rounds`` micro-batches of one step."""
        block = self.read_block(range(step, step + 1))
        for n in range(self.layout.num_rounds):
            yield {
                stream: {name: array[n] for name, array in arrays.items()}
                for stream, arrays in block.items()
            }

    def read_block(self, steps: range) -> MicroBatch:
        """Returns all micro-batches of consecutive steps along a new first axis."""
        at_step, self._next_step = self._next_step, -1  # an error below forces a seek
        if 0 <= at_step <= steps.start:
            self._pass_over(steps.start - at_step)
        else:
            self._seek(steps.start)
        num_rows = len(steps) * self.layout.num_rounds
        block = {stream: self._read_stream(stream, num_rows) for stream in self.layout.demands}
        self._next_step = steps.start + len(steps)
        return block

    def read_from(self, start_step: int) -> Iterator[MicroBatch]:
        """Yields the micro-batches of every step from ``start_step`` on, without end."""
        for step in count(start_step):
            yield from self.read(step)

    def _seek(self, step: int) -> None:
        """Lets each stream go on at a step."""
        for name, demand in self.layout.demands.items():
            self._refs[name] = ClipStream(
                order=demand.order,
                clips_per_step=demand.clips_per_step,
                rank=self.layout.rank,
                world_size=self.layout.world_size,
                start_step=step,
            ).refs()

    def _pass_over(self, num_steps: int) -> None:
        """Leaves out steps, whose blocks other readers read. A seek begins with the epoch."""
        for name, refs in self._refs.items():
            num = num_steps * self.layout.num_rounds * self._num_clips(name)
            next(islice(refs, num, num), None)

    def _num_clips(self, name: str) -> int:
        """Returns the number of clips of a stream in each micro-batch."""
        clips_per_step = self.layout.demands[name].clips_per_step
        return clips_per_step // (self.layout.world_size * self.layout.num_rounds)

    def _read_stream(self, name: str, num_rows: int) -> dict[str, np.ndarray]:
        """Reads the next micro-batches of a stream along a first axis."""
        num_clips = self._num_clips(name)
        refs = list(islice(self._refs[name], num_rows * num_clips))
        arrays = self._readers[name].read_sound_batch(refs, num_rows)
        return {
            name: array.reshape(num_rows, num_clips, *array.shape[1:])
            for name, array in arrays.items()
        }


def read_ahead(batches: Iterator[MicroBatch], depth: int) -> Iterator[MicroBatch]:
    """Reads up to ``depth`` micro-batches ahead in a thread, and raises its errors in their place.

    The thread ends when the iterator is closed or collected.
    """
    ready: queue.Queue[MicroBatch | BaseException] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: MicroBatch | BaseException) -> bool:
        while not stop.is_set():
            try:
                # Without the time limit, a thread whose consumer has gone would wait for ever.
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
        # Any error, also one that ends a thread: the consumer would wait for ever otherwise.
        except BaseException as error:
            put(error)

    # A daemon: a reader that waits for storage must not keep a finished process alive.
    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
