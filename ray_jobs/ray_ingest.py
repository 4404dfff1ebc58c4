"""Ray Data between shards and training workers: readers on any node, clips in the object store.

Every rank has its own small pipeline: steps -> reader actors -> blocks of micro-batches, in the
order of the steps. So the cursor is the step, nothing is dropped to make ranks equal, and no rank
waits for another's data.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, ExecutionResources

from lafp.data.micro_batches import MicroBatch, MicroBatchPlan, MicroBatchReader
from lafp.data.shards import open_shard_set

CPUS_PER_READER = 1
BLOCK_BYTES = 16 << 20
"""A reader's task: large enough that scheduling it (about 10 ms) does not count, small enough that
several readers work on neighbouring steps."""
BUFFERED_BLOCKS = 4
"""Blocks per reader that may lie in the object store ahead of a training worker."""


def ray_micro_batches(
    plan: MicroBatchPlan, start_step: int, num_steps: int, num_readers: int, cache_bytes: int
) -> Iterator[MicroBatch]:
    """The micro-batches of one rank, from ``start_step`` to ``num_steps``.

    Args:
        plan: What the rank reads.
        start_step: First step.
        num_steps: One past the last step.
        num_readers: Reader processes of this rank, each with ``CPUS_PER_READER``.
        cache_bytes: Decoded frames that one reader keeps.

    Yields:
        Arrays that lie in the object store: read-only, not copied.
    """
    step_bytes = step_num_bytes(plan)
    steps_per_block = max(1, BLOCK_BYTES // step_bytes)
    remaining = num_steps - start_step
    num_blocks = -(-remaining // steps_per_block)
    dataset = ray.data.range(remaining, override_num_blocks=num_blocks).map_batches(
        StepReader,
        batch_size=None,
        batch_format="numpy",
        fn_constructor_args=(plan, start_step, cache_bytes),
        compute=ActorPoolStrategy(size=num_readers),
        num_cpus=CPUS_PER_READER,
    )
    options = dataset.context.execution_options
    options.preserve_order = True
    block_bytes = steps_per_block * step_bytes
    options.resource_limits = ExecutionResources(
        object_store_memory=num_readers * BUFFERED_BLOCKS * block_bytes
    )
    dataset.context.target_max_block_size = 2 * block_bytes
    dataset.context.enable_progress_bars = False
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        yield from _rows(block)


def step_num_bytes(plan: MicroBatchPlan) -> int:
    """Bytes of frames that one rank reads per step."""
    total = 0
    for demand in plan.demands.values():
        spec = open_shard_set(demand.order.shard_set)
        clip_bytes = spec.max_clip_frames * spec.height_px * spec.width_px * 3
        total += demand.clips_per_step // plan.world_size * clip_bytes
    return total


class StepReader:
    """Reader actor: step numbers -> one row per micro-batch, a column per stream and field."""

    def __init__(self, plan: MicroBatchPlan, start_step: int, cache_bytes: int) -> None:
        self._reader = MicroBatchReader(plan, cache_bytes)
        self._start_step = start_step

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [
            {
                f"{stream}/{name}": array
                for stream, arrays in m.items()
                for name, array in arrays.items()
            }
            for step in batch["id"]
            for m in self._reader.read(self._start_step + int(step))
        ]
        return {column: np.stack([row[column] for row in rows]) for column in rows[0]}


def _rows(block: Mapping[str, np.ndarray]) -> Iterator[MicroBatch]:
    for index in range(len(next(iter(block.values())))):
        batch: MicroBatch = {}
        for column, array in block.items():
            stream, _, name = column.rpartition("/")
            batch.setdefault(stream, {})[name] = array[index]
        yield batch
