"""Feeds training workers with Ray Data: readers on any node put clips into the object store.

Every reader of every rank has its own small pipeline, steps -> reader actor -> blocks of
micro-batches, and a rank takes blocks from its readers in turn. So blocks come in the order of the
steps, and one step number is enough to resume. No clips are dropped to make ranks equal, no rank
waits for the data of another, and each reader's share of the object store is bounded.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, Dataset, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from lafp import storage
from lafp.config.node_labels import label_selector
from lafp.data.order.micro_batches import MicroBatch, MicroBatchLayout, MicroBatchReader
from ray_jobs.training.resources import CPUS_PER_READER

BLOCK_BYTES = 16 << 20
"""Size of a block. A block costs the training worker about 4 ms, which large blocks make
negligible."""
BUFFERED_BLOCKS = 6
"""Number of blocks of one reader that may lie in the object store, ahead of the training worker."""
BLOCKS_PER_TASK = 256
"""Number of blocks per Ray task, unless that makes more than ``MAX_TASKS`` tasks. Tasks are not
short, because a reader pauses for 0.4 s between two of them, and not very long, because a whole
task is repeated if its process dies."""
MAX_TASKS = 256
"""Largest number of tasks per reader. Ray Data plans all tasks before the first one starts, which
costs 0.8 ms and 10 kB each."""


def ray_micro_batches(
    layout: MicroBatchLayout,
    start_step: int,
    num_steps: int,
    num_readers: int,
    cache_bytes: int,
    node_labels: tuple[str, ...] = (),
) -> Iterator[MicroBatch]:
    """Yields the micro-batches of one rank, from ``start_step`` to ``num_steps``.

    Args:
        layout: The micro-batches of the rank.
        start_step: First step.
        num_steps: One past the last step.
        num_readers: Reader processes of this rank.
        cache_bytes: Decoded frames that one reader keeps.
        node_labels: Labels of the nodes that readers may run on, ``key=value`` each.

    Yields:
        Arrays that lie in the object store: read-only, not copied.
    """
    steps_per_block = max(1, BLOCK_BYTES // layout.step_num_bytes)
    num_blocks = -(-(num_steps - start_step) // steps_per_block)
    readers = []
    for index in range(min(num_readers, num_blocks)):
        steps = BlockSteps(start_step, num_steps, steps_per_block, index, num_readers)
        num_mine = -(-(num_blocks - index) // num_readers)
        dataset = _pipeline(layout, steps, num_mine, cache_bytes, label_selector(node_labels))
        batches = dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)
        readers.append(_rows(batches))
    for block in range(num_blocks):
        yield from islice(readers[block % num_readers], steps_per_block * layout.num_rounds)


class Pause(ExecutionCallback):
    """Lets Ray Data's scheduling thread sleep between its rounds.

    While blocks wait for a slower training worker, that thread spins. It took 80 % of a core, and
    the interpreter lock from the training in the same process, which then ran at half its speed.
    """

    SECONDS, SECONDS_IN_NEED = 0.1, 0.01
    """Length of a pause. The shorter one applies while the training worker, or its prefetching,
    waits for a block."""

    def on_execution_step(self, executor: Any) -> None:
        """Sleeps after every round."""
        _, output = executor._output_node
        time.sleep(self.SECONDS_IN_NEED if output.num_waiting_consumers else self.SECONDS)


class BlockSteps:
    """Computes which steps lie in the n-th block of one of several readers."""

    def __init__(
        self, start_step: int, num_steps: int, steps_per_block: int, reader: int, num_readers: int
    ) -> None:
        self._start_step, self._num_steps = start_step, num_steps
        self.steps_per_block = steps_per_block
        self._reader, self._num_readers = reader, num_readers

    def __call__(self, n: int) -> range:
        first = self._start_step + (n * self._num_readers + self._reader) * self.steps_per_block
        return range(first, min(first + self.steps_per_block, self._num_steps))


class BlockReader:
    """The reader actor. It turns numbers of blocks into blocks with a row per micro-batch."""

    def __init__(self, layout: MicroBatchLayout, steps: BlockSteps, cache_bytes: int) -> None:
        storage.be_patient()  # S3 that does not answer for a while must not end a long run
        self._reader = MicroBatchReader(layout, cache_bytes)
        self._steps = steps

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for n in batch["id"]:
            block = self._reader.read_block(self._steps(int(n)))
            yield {
                f"{stream}/{name}": array
                for stream, arrays in block.items()
                for name, array in arrays.items()
            }


def _pipeline(
    layout: MicroBatchLayout,
    steps: BlockSteps,
    num_blocks: int,
    cache_bytes: int,
    selector: Mapping[str, str],
) -> Dataset:
    """Builds the Ray Data pipeline of one reader."""
    block_bytes = steps.steps_per_block * layout.step_num_bytes
    dataset = ray.data.range(
        num_blocks, override_num_blocks=min(-(-num_blocks // BLOCKS_PER_TASK), MAX_TASKS)
    ).map_batches(
        BlockReader,
        batch_size=None,
        batch_format="numpy",
        fn_constructor_args=(layout, steps, cache_bytes),
        # Ray Data waits up to 0.1 s for a block from its latest task. A queued task gives none, so
        # tasks are not queued.
        compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1),
        num_cpus=CPUS_PER_READER,
        label_selector=dict(selector) or None,
    )
    options = dataset.context.execution_options
    # A step is known by its place in the stream alone, so no block may overtake another.
    options.preserve_order = True
    options.resource_limits = ExecutionResources(object_store_memory=BUFFERED_BLOCKS * block_bytes)
    # A target below the size of a yield makes every yield a block of its own.
    dataset.context.target_max_block_size = int(0.9 * block_bytes)
    dataset.context.enable_progress_bars = False
    dataset.context.custom_execution_callback_classes = [Pause]
    return dataset


def _rows(blocks: Iterable[Mapping[str, np.ndarray]]) -> Iterator[MicroBatch]:
    for block in blocks:
        for index in range(len(next(iter(block.values())))):
            batch: MicroBatch = {}
            for column, array in block.items():
                stream, _, name = column.rpartition("/")
                batch.setdefault(stream, {})[name] = array[index]
            yield batch
