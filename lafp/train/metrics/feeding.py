"""How many cores must decode so that a training step never waits for its data."""

import time
from collections.abc import Mapping
from functools import cached_property
from itertools import islice

from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import clip_num_bytes
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.reader import ClipReader

NUM_SAMPLED_CLIPS = 16
CORES_NEEDED = "decode_cores_needed"
"""Name of the metric: cores that decode as fast as the steps would go without waiting."""
MUCH_WAITING = 0.05
"""Share of the time from which on it is worth a word."""


class Feeding:
    """Sets the speed of decoding, measured on a few clips, against that of the steps.

    Args:
        demands: The streams of a task, with their clips per step over all ranks.
        cache_bytes: Of decoded clips that one reader keeps.
    """

    def __init__(self, demands: Mapping[str, ClipDemand], cache_bytes: int) -> None:
        self._demands = demands
        self._cache_bytes = cache_bytes

    @cached_property
    def decode_s_per_step(self) -> float:
        """CPU seconds that reading and decoding one step's clips take, over all ranks.

        0 where a reader can keep all clips, and decodes each only once.
        """
        all_bytes = sum(d.order.num_clips * clip_num_bytes(d) for d in self._demands.values())
        if all_bytes <= self._cache_bytes:
            return 0.0
        return sum(d.clips_per_step * _decode_s(d) for d in self._demands.values())

    def metrics(self, step_s: float, data_wait_share: float) -> dict[str, float]:
        """``decode_cores_needed``.

        Args:
            step_s: Seconds of a step, waiting included.
            data_wait_share: Share of it that was waiting.
        """
        busy_s = step_s * (1 - data_wait_share)
        return {CORES_NEEDED: self.decode_s_per_step / busy_s} if busy_s > 0 else {}


def _decode_s(demand: ClipDemand) -> float:
    """CPU seconds per clip of the first ones of the order, read as a batch."""
    reader = ClipReader(demand.order.shard_sets, latents=demand.latents, draws=demand.draws)
    refs = list(islice(demand.order.visits(), min(NUM_SAMPLED_CLIPS, demand.order.num_clips)))
    start = time.thread_time()
    try:
        reader.read_sound_batch(refs)
    except DamagedClipError:  # none is sound; counted where it is trained on
        return 0.0
    return (time.thread_time() - start) / len(refs)


def advice(record: Mapping[str, float], num_readers: int) -> str:
    """What to tell a user whose steps wait for data, or may one day on a faster device.

    Args:
        record: One of ``metrics.jsonl``.
        num_readers: Processes or threads that decode, over all workers.

    Returns:
        One line; empty where nothing is left to decode.
    """
    if not (cores := record.get(CORES_NEEDED)) or not {"data_wait_share", "windows_per_s"} <= (
        record.keys()
    ):
        return ""
    share = record["data_wait_share"]
    windows_per_s = record["windows_per_s"] / max(1 - share, 1e-9)
    text = (
        f"the steps could take {windows_per_s:,.0f} windows/s; decoding as many keeps "
        f"{cores:.2g} cores busy, and there are {num_readers} readers"
    )
    if share > MUCH_WAITING:
        text += f". {share:.0%} of the time is waiting for data: see train.ingest.num_readers"
    return text
