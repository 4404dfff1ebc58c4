"""Estimates how many cores must decode so that training steps never wait for data."""

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
"""Share of the time spent waiting for data above which ``advice`` mentions it."""


class Feeding:
    """Compares the speed of decoding, measured on a few clips, with the speed of the steps.

    Args:
        demands: The streams of a task, with their clips per step over all ranks.
        cache_bytes: Bytes of decoded clips that one reader keeps.
    """

    def __init__(self, demands: Mapping[str, ClipDemand], cache_bytes: int) -> None:
        self._demands = demands
        self._cache_bytes = cache_bytes

    @cached_property
    def decode_s_per_step(self) -> float:
        """Returns the CPU seconds to read and decode one step's clips, over all ranks.

        The result is 0 if a reader can keep all clips, because it then decodes each only once.
        """
        all_bytes = sum(d.order.num_clips * clip_num_bytes(d) for d in self._demands.values())
        if all_bytes <= self._cache_bytes:
            return 0.0
        return sum(d.clips_per_step * _decode_s(d) for d in self._demands.values())

    def metrics(self, step_s: float, data_wait_share: float) -> dict[str, float]:
        """Returns the metric ``decode_cores_needed``.

        Args:
            step_s: Seconds per step, waiting included.
            data_wait_share: Share of them spent waiting.
        """
        busy_s = step_s * (1 - data_wait_share)
        return {CORES_NEEDED: self.decode_s_per_step / busy_s} if busy_s > 0 else {}


def _decode_s(demand: ClipDemand) -> float:
    """Returns the CPU seconds per clip to read the first clips of the order as a batch."""
    reader = ClipReader(demand.order.shard_sets, latents=demand.latents, draws=demand.draws)
    refs = list(islice(demand.order.visits(), min(NUM_SAMPLED_CLIPS, demand.order.num_clips)))
    # The thread's CPU time, so that other work on the machine does not count.
    start = time.thread_time()
    try:
        reader.read_sound_batch(refs)
    except DamagedClipError:  # no clip is sound, which training itself counts and reports
        return 0.0
    return (time.thread_time() - start) / len(refs)


def advice(record: Mapping[str, float], num_readers: int) -> str:
    """Compares for the user the cores that decoding needs with the readers that there are.

    Args:
        record: A record of ``metrics.jsonl``.
        num_readers: Processes or threads that decode, over all workers.

    Returns:
        One line; empty if nothing is left to decode.
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
