"""Searches a source for near-duplicates: a small one in memory, a larger one on Ray Data.

Both ways call the functions of ``select.duplicates``, the first with all clips, the second with
blocks of clips. Ray Data brings the rows of a key, or of a block, together, and spills what does
not fit into memory. Each step stores its tables below the work folder, and then a list of them, so
that a job that was killed goes on after the last complete step.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.duplicates import (
    NO_MATCHES,
    Duplicates,
    candidates,
    find_in_memory,
    keys_of,
    known_in,
    links,
    originals,
    ranked,
    unlike_the_first,
    verified,
    with_other,
)
from data_pipelines.preprocess.select.finished_sets import (
    FinishedSets,
    described,
    known_signatures,
    telling_damage,
)
from data_pipelines.preprocess.select.signatures import signatures_of
from lafp import storage
from lafp.config.node_labels import label_selector
from lafp.runs.progress import Progress
from lafp.storage import strict_json
from lafp.storage.tables import read_table, write_table

if TYPE_CHECKING:
    from ray.data import Dataset

Step = Callable[[pa.Table], pa.Table]
MOST_IN_MEMORY = 32_768
"""Most clips that the driver compares itself. 20,000 clips of 10 s take 0.4 GiB there."""
BLOCK_CLIPS = 2_048
"""Number of clips whose signatures and candidates are in the memory of a task on Ray Data."""
# A shuffle makes a shard for every pair of partitions.
_MAX_PARTITIONS = 1_024
_ROWS_PER_BATCH = 8_192
_BUCKET = "bucket"


def find_duplicates(
    catalog: Catalog,
    work: str,
    node_labels: tuple[str, ...] = (),
    most_in_memory: int = MOST_IN_MEMORY,
    block_clips: int = BLOCK_CLIPS,
    sets: FinishedSets | None = None,
) -> Duplicates:
    """Finds the near-duplicates among the clips of a catalog, and of clips of finished sets.

    Args:
        catalog: The clips to compare.
        work: Folder of the parts.
        node_labels: Labels of the nodes that may run the tasks (``TasksConfig``).
        most_in_memory: Number of clips up to which Ray Data is not used.
        block_clips: Number of clips per block on Ray Data.
        sets: Finished sets; None without any.

    Raises:
        ConfigError: The signatures of a finished set are damaged.
    """
    sets = sets or FinishedSets()
    blocks = catalog.clip_blocks(block_clips)
    with telling_damage():
        if catalog.num_clips + sets.num_clips <= most_in_memory:
            return _find_in_memory(pa.concat_tables(blocks), work, sets)
        digest = store_blocks(blocks, work, sets, block_clips)
        numbers = range(sets.num_clips // -block_clips, -(-catalog.num_clips // block_clips))
        return _on_ray(_Search(work, digest, node_labels, block_clips, numbers), sets)


def _on_ray(search: "_Search", sets: FinishedSets) -> Duplicates:
    from ray.exceptions import RayTaskError

    try:
        return search.find()
    except RayTaskError:
        # Ray Data passes on only the text of what a task raised, so a damaged table is read again.
        for _, ranges in sets.blocks(BLOCK_CLIPS):
            known_signatures(ranges)
        raise


def _find_in_memory(clips: pa.Table, work: str, sets: FinishedSets) -> Duplicates:
    ranges = sets.ranges()
    signatures = [known_signatures(ranges), signatures_of(clips, work)]
    matches = find_in_memory(pa.concat_tables(signatures))
    return Duplicates(
        originals=originals(matches).to_batches(),
        links=links(matches).to_batches(),
        known=described(ranges, known_in(matches)).to_batches(),
    )


def store_blocks(
    blocks: Iterable[pa.Table],
    work: str,
    sets: FinishedSets | None = None,
    block_clips: int = BLOCK_CLIPS,
) -> str:
    """Writes where the clips of each block lie. Blocks of finished sets have negative numbers.

    Returns:
        A hash of what it has written. It names the folder of the search, so a resumed job searches
        anew if its clips have changed, e.g. by a takedown, or their division into blocks, by
        another version.
    """
    digest, folder = sha256(), storage.join(work, "search")
    if sets is not None:
        digest.update(sets.fingerprint.encode())
        for number, ranges in sets.blocks(block_clips):
            write_table(_table_uri(folder, "clips", number), ranges)
    for number, clips in enumerate(blocks):
        write_table(_table_uri(folder, "clips", number), clips)
        # Tables of a step are named by block, so those of blocks of another size must not be read.
        digest.update(f"{clips.num_rows} clips\n".encode())
        for name in ("clip", "video", "video_offset"):
            digest.update(clips[name].to_numpy())
        digest.update("\n".join(clips["part"].to_pylist()).encode())
    return digest.hexdigest()[:16]


class _Search:
    """Runs the steps on Ray Data. Each Ray task gets a copy, which holds only names and numbers."""

    def __init__(
        self,
        work: str,
        digest: str,
        node_labels: tuple[str, ...],
        block_clips: int,
        blocks: range,
    ) -> None:
        self._work, self._block_clips = work, block_clips
        self._blocks, self._num_blocks = blocks, len(blocks)
        self._clips = storage.join(work, "search")
        self._folder = storage.join(self._clips, digest)
        self._selector = label_selector(node_labels)

    def find(self) -> Duplicates:
        """Runs the steps that are missing."""
        steps: dict[str, Callable[[str], list[int]]] = {
            "pairs": self._ranked,
            "matches": partial(self._verified, "pairs"),
            "open": self._open,
            "more": partial(self._verified, "open"),
            "originals": partial(self._of_all_matches, originals),
            "links": partial(self._of_all_matches, links),
            "known": self._known,
        }
        with Progress("near-duplicates", len(steps), "steps") as progress:
            for number, (name, run) in enumerate(steps.items(), start=1):
                self._step(name, run)
                progress.update(number)
        return Duplicates(
            originals=self._batches("originals"),
            links=self._batches("links"),
            known=(batch for n in self._numbers("known") for batch in self._batches("known", n)),
        )

    def _step(self, name: str, run: Callable[[str], list[int]]) -> None:
        """Runs a step unless it is complete. It writes its tables and returns their numbers."""
        uri = _list_uri(self._folder, name)
        if not storage.is_file(uri):
            strict_json.write(uri, run(name))

    def _run(self, dataset: "Dataset") -> list[int]:
        _keep_notes_off_the_terminal()
        dataset.context.enable_progress_bars = False
        dataset.context.execution_options.label_selector = dict(self._selector) or None
        return sorted(row["number"] for row in dataset.take_all())

    def _ranked(self, name: str) -> list[int]:
        keys = _tables(self._blocks, self._keys)
        counts = self._grouped(keys, 2 * self._num_blocks, self._to_block(candidates, "clip"))
        return self._run(self._grouped(counts, self._num_blocks, self._stored(ranked, name)))

    def _verified(self, source: str, name: str) -> list[int]:
        if not (numbers := self._numbers(source)):
            return []
        # No task needs the signatures of more than one block: a pair goes to the block of its
        # ``other``, takes that signature along, and goes on to the block of its ``clip``.
        pairs = _tables(numbers, self._to_block(partial(self._table, source), "other"))
        both = self._grouped(pairs, self._num_blocks, self._to_block(self._with_other, "clip"))
        return self._run(self._grouped(both, self._num_blocks, self._stored(self._matches, name)))

    def _open(self, name: str) -> list[int]:
        pairs = unlike_the_first(self._matches_of("matches"))
        write_table(_table_uri(self._folder, name, 0), pairs)
        return [0] if len(pairs) else []

    def _of_all_matches(self, function: Step, name: str) -> list[int]:
        write_table(
            _table_uri(self._folder, name, 0), function(self._matches_of("matches", "more"))
        )
        return [0]

    def _known(self, name: str) -> list[int]:
        known = known_in(self._matches_of("matches", "more"))
        if not len(known):
            return []
        write_table(_table_uri(self._folder, "known_clips", 0), pa.table({"clip": known}))
        blocks = np.unique(known // self._block_clips).tolist()
        return self._run(_tables(blocks, self._stored(self._described, name)))

    def _described(self, block: pa.Table) -> pa.Table:
        known = read_table(_table_uri(self._folder, "known_clips", 0))["clip"].to_numpy()
        of_block = known[known // self._block_clips == _number(block)]
        return described(read_table(_table_uri(self._clips, "clips", _number(block))), of_block)

    def _matches_of(self, *steps: str) -> pa.Table:
        """Reads all matches, which are few: 32 bytes each, and most clips have none."""
        uris = [_table_uri(self._folder, step, n) for step in steps for n in self._numbers(step)]
        return pa.concat_tables([NO_MATCHES, *map(read_table, uris)])

    def _grouped(self, rows: "Dataset", num_buckets: int, function: Step) -> "Dataset":
        grouped = rows.groupby(_BUCKET, num_partitions=min(num_buckets, _MAX_PARTITIONS))
        return grouped.map_groups(function, batch_format="pyarrow")

    def _to_block(self, function: Step, column: str) -> Step:
        """Sends each row to the block of the clip in a column."""

        def bucketed(table: pa.Table) -> pa.Table:
            made = function(table)
            return made.append_column(_BUCKET, [made[column].to_numpy() // self._block_clips])

        return bucketed

    def _stored(self, function: Step, name: str) -> Step:
        """Writes the table of each group, and returns its number."""

        def stored(table: pa.Table) -> pa.Table:
            number = _number(table)
            write_table(_table_uri(self._folder, name, number), function(table))
            return pa.table({"number": [number]})

        return stored

    def _keys(self, block: pa.Table) -> pa.Table:
        number = _number(block)
        places = read_table(_table_uri(self._clips, "clips", number))
        signatures = known_signatures(places) if number < 0 else signatures_of(places, self._work)
        # Later steps read them several times, and then from one table, not from many parts.
        write_table(_table_uri(self._folder, "signatures", number), signatures)
        keys = keys_of(signatures)
        buckets = keys["key"].to_numpy().astype(np.int64) % (2 * self._num_blocks)
        return keys.append_column(_BUCKET, [buckets])

    def _with_other(self, pairs: pa.Table) -> pa.Table:
        return with_other(pairs, self._table("signatures", pairs))

    def _matches(self, pairs: pa.Table) -> pa.Table:
        return verified(pairs, self._table("signatures", pairs))

    def _table(self, name: str, group: pa.Table) -> pa.Table:
        """Reads the table of a step that belongs to a group."""
        return read_table(_table_uri(self._folder, name, _number(group)))

    def _batches(self, name: str, number: int = 0) -> list[pa.RecordBatch]:
        return read_table(_table_uri(self._folder, name, number)).to_batches(_ROWS_PER_BATCH)

    def _numbers(self, name: str) -> list[int]:
        return strict_json.read(list[int], _list_uri(self._folder, name))


def _keep_notes_off_the_terminal() -> None:
    """Leaves Ray Data's notes to its log file, because the job shows progress of its own."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _tables(numbers: Iterable[int], function: Step) -> "Dataset":
    """Calls a function once for each of these numbers."""
    import ray.data

    rows = ray.data.from_items([{_BUCKET: number} for number in numbers])
    return rows.map_batches(function, batch_size=1, batch_format="pyarrow")


def _number(group: pa.Table) -> int:
    return group[_BUCKET][0].as_py()


def _table_uri(folder: str, name: str, number: int) -> str:
    return storage.join(folder, name, f"{number:06d}.parquet")


def _list_uri(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.json")
