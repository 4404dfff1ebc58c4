"""Decides which clips of a source are kept and for which split, once all videos are processed.

The steps, each of which stores its tables (``select.steps``)::

    copies     files that repeat an earlier one, or one of a finished set
    left       clips of the other files
    (search)   near-duplicates among these (``select.search``)
    dropped    what each near-duplicate repeats
    episodes   pairs of videos that show one episode
    clusters   videos that must go to one split (``select.splits``)
    free       what decides whether a cluster must be held out
    outcome    clips that are kept, by split and content, and all rejects

Of equal files, and of clips that look alike, the earliest in the listing is kept. Each dropped clip
becomes a reject, so that clips and rejects still cover every video. Nothing depends on how the
source was divided into blocks, nor on the number of workers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.preprocess.action_statistics import ActionStatistics
from data_pipelines.preprocess.label_kinds import LabelKinds
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import LabelSums
from data_pipelines.preprocess.select import repeated_files, splits
from data_pipelines.preprocess.select.blocks import CLIPS
from data_pipelines.preprocess.select.finished_sets import FinishedSets, known_videos
from data_pipelines.preprocess.select.repeated_files import COPIES
from data_pipelines.preprocess.select.search import Search
from data_pipelines.preprocess.select.splits import EDGES, KNOWN_EPISODES, MEMBERS, RANKED
from data_pipelines.preprocess.select.steps import (
    BUCKET,
    Runner,
    Step,
    Tables,
    column,
    first_number,
    group_number,
    runner_for,
    to_block,
    to_group,
    without_bucket,
)
from lafp.data.shards.format import Split
from lafp.runs.progress import Progress
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import schema_of

TABLES_FORMAT = 3
"""Names what the tables of the steps hold. A change begins the selections of killed jobs anew."""

_LEFT = ("clip", "video", "part", "video_offset", "kind")
_KEPT = [name for name in CLIPS.names if name not in ("clip", "video", "kind", "label_sums")]
_KINDS = pa.schema({"kind": pa.string(), "clips": pa.int64(), "uri": pa.string()})
_DROPPED = pa.schema(
    {
        "clip": pa.int64(),
        **{name: pa.string() for name in ("original_clip_id", "original_uri", "detail")},
    }
)
_REJECTS = schema_of(RejectRow)
_CLIPS_PER_TABLE = 4_096
_SPLITS: tuple[Split, ...] = ("train", "val")
_NUM_STEPS = 7  # without those of a search
# Rows of contents and episodes are short.
_BLOCKS_PER_BUCKET = 16


@dataclass(frozen=True, kw_only=True)
class _Free:
    """Holds what a block says before the outcome."""

    clusters: splits.FreeClusters
    num_clips: int


@dataclass(frozen=True, kw_only=True)
class BlockTotals:
    """Adds up the videos and rejects of a block."""

    num_videos: int
    video_s: float
    num_with_clips: int
    """Number of videos of which clips are kept."""
    num_rates_assumed: int
    """Number of these whose frame rate is a default."""
    fallbacks: dict[str, int]
    """Why videos were decoded on another device than asked for -> their number."""
    spans: dict[str, int]
    """Reason -> number of rejects."""
    seconds: dict[str, float]
    """Reason -> seconds of these."""


@dataclass(frozen=True, kw_only=True)
class KeptTotals:
    """Adds up the clips of a table of kept clips."""

    split: Split
    num_clips: int
    num_frames: int
    shortest: int
    longest: int
    slowest: float
    fastest: float
    seconds: float
    num_masked: int
    sums: LabelSums | None = None


@dataclass(frozen=True)
class Selected:
    """Reads what a complete selection has decided."""

    tables: Tables
    blocks: range

    @property
    def kept(self) -> list[int]:
        """Numbers of the tables of kept clips, in the order of the shards."""
        return self.tables.numbers("outcome")

    def clips(self, number: int) -> pa.Table:
        """Reads a table of kept clips: columns of ``ClipRecord`` and of their places in parts.

        The order is by split, then by the videos' ids. These are hashes, so the order is random,
        but the clips of a video stay together. It depends only on the clips, not on how the work
        was divided.
        """
        return self.tables.read("kept", number)

    def rejects(self) -> Iterator[pa.Table]:
        """Yields all rejects, in the order of the listing and of time."""
        return map_ahead(partial(self.tables.read, "rejected"), self.blocks)

    def block_totals(self) -> Iterator[BlockTotals]:
        """Yields the totals of each block."""
        return self.tables.records("rejected", self.blocks, BlockTotals)

    def kept_totals(self) -> Iterator[KeptTotals]:
        """Yields the totals of each table of kept clips."""
        return self.tables.records("kept", self.kept, KeptTotals)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Selects the clips of a source.

    Args:
        runner: Runs the steps.
        tables: Holds the tables of the blocks (``store_block``), and gets those of the steps.
        work: Folder of the parts.
        blocks: Numbers of the blocks.
        val_fraction: See ``PreprocessConfig``.
        drop_duplicates: See ``FiltersConfig``.
        sets: Finished sets, whose files and clips are dropped.
    """

    runner: Runner
    tables: Tables
    work: str
    blocks: range
    val_fraction: float
    drop_duplicates: bool
    sets: FinishedSets = field(default_factory=FinishedSets)

    def run(self) -> Selected:
        """Runs the steps that are missing.

        Raises:
            ConfigError: The source holds labels of two kinds, or a finished set is damaged.
        """
        tasks = _Tasks(self.tables, self.sets.uris, self.val_fraction, len(self.blocks))
        search = self._search(tasks) if self.drop_duplicates else {}
        with Progress("select", _NUM_STEPS + len(search), "steps") as progress:
            num_done = count(1)

            def step(name: str, run: Callable[[], list[int]]) -> None:
                self.tables.step(name, run)
                progress.update(next(num_done))

            step("copies", lambda: self._copies(tasks))
            step("left", lambda: self._stored(tasks.left, "left"))
            tasks.usual_kind = self._usual_kind()
            for name, run in search.items():
                step(name, run)
            step("episodes", lambda: self._episodes(tasks))
            step("all_clusters", lambda: self._run([0], tasks.clusters))
            step("clusters", lambda: self._ranked(tasks))
            step("free", lambda: self._run(self.blocks, tasks.free))
            clusters, num_clips = splits.FreeClusters(), 0
            for free in self.tables.records("free", self.blocks, _Free):
                clusters = splits.merged([clusters, free.clusters])
                num_clips += free.num_clips
            tasks.held_out = clusters.held_out(self.val_fraction)
            tasks.num_tables = -(-max(num_clips, 1) // _CLIPS_PER_TABLE)
            step("outcome", lambda: self._outcome(tasks))
        return Selected(self.tables, self.blocks)

    def _search(self, tasks: "_Tasks") -> dict[str, Callable[[], list[int]]]:
        search = Search(self.runner, self.tables, self.work, self.blocks, tasks.compared, self.sets)
        return search.steps() | {"dropped": lambda: self._dropped(tasks)}

    def _run(self, numbers: Iterable[int], function: Step) -> list[int]:
        return self.runner.run(self.runner.tables(numbers, function))

    def _stored(self, function: Step, name: str) -> list[int]:
        return self._run(self.blocks, self.tables.stored(function, name))

    def _copies(self, tasks: "_Tasks") -> list[int]:
        numbers = [*range(-len(self.sets.uris), 0), *self.blocks]
        ids = self.runner.tables(numbers, tasks.ids)
        found = self.tables.stored(repeated_files.copies, "found_copies")
        buckets = self.runner.run(self.runner.grouped(ids, tasks.num_buckets, found))
        runner = self._runner_for("found_copies", buckets)
        rows = runner.tables(buckets, to_block(tasks.found_copies, "video"))
        return self._stored_by_block(runner, rows, "copies")

    def _usual_kind(self) -> str:
        kinds = LabelKinds()
        for table in map_ahead(partial(self.tables.read, "kinds"), self.blocks):
            for row in table.to_pylist():
                kinds.add(row["kind"], row["clips"], row["uri"])
        kinds.check()
        return kinds.usual

    def _dropped(self, tasks: "_Tasks") -> list[int]:
        runner = self._runner_for("originals", [0])
        rows = runner.tables([0], to_block(tasks.originals, "original"))
        named = runner.grouped(rows, len(self.blocks), to_block(tasks.named, "clip"))
        return self._stored_by_block(runner, named, "dropped")

    def _episodes(self, tasks: "_Tasks") -> list[int]:
        rows = self.runner.tables([-1, *self.blocks], tasks.members)
        edges = self.tables.stored(splits.episode_edges, "episode_edges")
        return self.runner.run(self.runner.grouped(rows, tasks.num_buckets, edges))

    def _ranked(self, tasks: "_Tasks") -> list[int]:
        runner = self._runner_for("all_clusters", [0])
        rows = runner.tables([0], to_block(tasks.all_clusters, "root"))
        ranked = runner.grouped(rows, len(self.blocks), to_block(tasks.ranked, "video"))
        return self._stored_by_block(runner, ranked, "clusters")

    def _outcome(self, tasks: "_Tasks") -> list[int]:
        rows = self.runner.tables(self.blocks, tasks.outcome)
        kept = self.tables.stored(tasks.kept, "kept")
        return self.runner.run(self.runner.grouped(rows, len(self.blocks), kept))

    def _runner_for(self, name: str, numbers: list[int]) -> Runner:
        return runner_for(self.runner, self.tables, name, numbers, len(self.blocks))

    def _stored_by_block(self, runner: Runner, rows: Any, name: str) -> list[int]:
        stored = self.tables.stored(without_bucket, name)
        return runner.run(runner.grouped(rows, len(self.blocks), stored))


class _Tasks:
    """Holds what runs in the tasks of a selection. Each Ray task gets a copy."""

    def __init__(
        self, tables: Tables, set_uris: tuple[str, ...], val_fraction: float, num_blocks: int
    ) -> None:
        self._tables, self._set_uris = tables, set_uris
        self._val_fraction, self._num_blocks = val_fraction, num_blocks
        self.num_buckets = -(-num_blocks // _BLOCKS_PER_BUCKET)
        """Number of groups of contents, and of episodes."""
        self.usual_kind = ""
        self.held_out: int | None = None
        self.num_tables = 1
        """Number of tables of kept clips per split."""

    def ids(self, block: pa.Table) -> Iterator[pa.Table]:
        """Yields the ids of the videos of a block, or of a finished set, a few rows at a time."""
        number = group_number(block)
        if number < 0:
            uri = self._set_uris[number]
            for videos in known_videos(uri):
                known = repeated_files.known_ids(videos, number, uri)
                yield to_group(known, "video_id", self.num_buckets)
        else:
            ids = repeated_files.ids_of(self._tables.read("videos", number))
            yield to_group(ids, "video_id", self.num_buckets)

    def found_copies(self, bucket: pa.Table) -> pa.Table:
        return self._tables.read("found_copies", group_number(bucket))

    def left(self, block: pa.Table) -> pa.Table:
        """Returns the clips of files that repeat no earlier one, and counts their kinds."""
        number = group_number(block)
        clips = self._tables.read("clips", number, [*_LEFT, "video_uri"])
        left = clips.filter(~np.isin(column(clips, "video"), self._copied(number)))
        counted = left.group_by("kind", use_threads=False).aggregate(
            [("clip", "count"), ("video_uri", "first")]
        )
        counted = counted.rename_columns(["kind", "clips", "uri"]).cast(_KINDS)
        self._tables.write("kinds", number, counted.filter(pc.not_equal(counted["kind"], "")))
        return left.select(_LEFT)

    def compared(self, number: int) -> pa.Table:
        """Returns the clips of a block that are left and have the usual kind of labels."""
        left = self._tables.read("left", number)
        return left.filter(self._is_usual(left))

    def originals(self, _: pa.Table) -> pa.Table:
        return self._tables.read("originals", 0)

    def named(self, group: pa.Table) -> pa.Table:
        """Says of near-duplicates which clip of a block they repeat."""
        number = group_number(group)
        names = ["clip", "clip_id", "video_uri"]
        if number < 0:
            clips = self._tables.read("known", number, [*names, "shard_set"])
        else:
            clips = self._tables.read("clips", number, names)
        found = clips.take(np.searchsorted(column(clips, "clip"), column(group, "original")))
        rows = [
            {
                "clip": clip,
                "original_clip_id": row["clip_id"],
                "original_uri": row["video_uri"],
                "detail": f"clip {row['clip_id']} of {row['video_uri']}"
                + (f" in {row['shard_set']}" if number < 0 else ""),
            }
            for clip, row in zip(group["clip"].to_pylist(), found.to_pylist(), strict=True)
        ]
        return pa.Table.from_pylist(rows, _DROPPED)

    def members(self, block: pa.Table) -> pa.Table:
        """Returns the episodes of the videos of a block, and those that finished sets know."""
        number = group_number(block)
        if number < 0:
            found = self._known_of_links()
        else:
            videos = self._tables.read("videos", number, ["episode", "video"])
            known = _known_of(self._copies_of(number))
            found = pa.concat_tables([videos.select(MEMBERS.names), known.select(MEMBERS.names)])
            found = found.filter(pc.not_equal(found["episode"], ""))
        return to_group(found.select(MEMBERS.names), "episode", self.num_buckets)

    def clusters(self, _: pa.Table) -> pa.Table:
        """Finds all clusters with all pairs of videos in memory."""
        names = ["video", "first", "known_episode", "known_split"]
        read = partial(self._tables.read, "copies", columns=names)
        found_copies = map_ahead(read, self._tables.numbers("copies"))
        copies = pa.concat_tables([COPIES.empty_table().select(names), *found_copies])
        first = repeated_files.first_of_source(copies).select(["video", "first"])
        links = self._links()
        of_source = links.filter(column(links, "other") >= 0)
        of_episodes = self._tables.numbers("episodes")
        edges = map_ahead(partial(self._tables.read, "episode_edges"), of_episodes)
        tables = [first.rename_columns(EDGES.names), of_source, *edges]
        known = pa.concat_tables([_known_of(copies), self._known_of_links()])
        found = splits.clusters(pa.concat_tables(tables), known)
        self._tables.write("all_clusters", 0, found)
        return pa.table({"number": [0]})

    def all_clusters(self, _: pa.Table) -> pa.Table:
        return self._tables.read("all_clusters", 0)

    def ranked(self, group: pa.Table) -> pa.Table:
        videos = self._tables.read("videos", group_number(group), ["video", "episode"])
        return splits.with_rank(group, videos)

    def free(self, block: pa.Table) -> pa.Table:
        """Says which clusters have clips that may go to either split."""
        number = group_number(block)
        kept = self._kept_places(number)
        videos = self._with_clusters(number, kept)
        free = videos.filter(pc.is_null(videos["given_split"]))
        names = ("root", "rank", "known_split")
        ranked = set(zip(*(free[name].to_pylist() for name in names), strict=True))
        found = _Free(
            clusters=splits.free_clusters(ranked, self._val_fraction), num_clips=len(kept)
        )
        self._tables.write_record("free", number, found)
        return pa.table({"number": [number]})

    def outcome(self, block: pa.Table) -> pa.Table:
        """Stores a block's rejects and totals, and sends its kept clips to their tables."""
        number = group_number(block)
        kept = self._kept_places(number)
        videos = self._with_clusters(number, kept)
        names = ("video", "given_split", "known_split", "rank", "root")
        split_of = {
            video: splits.split_of(given, known, rank, root == self.held_out, self._val_fraction)
            for video, given, known, rank, root in zip(
                *(videos[name].to_pylist() for name in names), strict=True
            )
        }
        self._reject(number, videos)
        clips = self._tables.read("clips", number).take(kept)
        of_clips = [split_of[video] for video in clips["video"].to_pylist()]
        ids = clips["video_id"].to_pylist()
        buckets = [
            _SPLITS.index(split) * self.num_tables + (int(video_id[:8], 16) * self.num_tables >> 32)
            for split, video_id in zip(of_clips, ids, strict=True)
        ]
        place = clips.schema.get_field_index("split")
        clips = clips.set_column(place, "split", pa.array(of_clips, pa.string()))
        return clips.append_column(BUCKET, pa.array(buckets, pa.int32()))

    def kept(self, group: pa.Table) -> pa.Table:
        """Sorts kept clips, and stores their totals."""
        clips = group.sort_by([("video_id", "ascending"), ("start_s", "ascending")])
        frames, fps = column(clips, "num_frames"), column(clips, "fps")
        statistics = ActionStatistics()
        for text in clips["label_sums"].to_pylist():
            if text is not None:
                statistics.add(strict_json.loads(LabelSums, text))
        totals = KeptTotals(
            split=clips["split"][0].as_py(),
            num_clips=len(clips),
            num_frames=int(frames.sum()),
            shortest=int(frames.min()),
            longest=int(frames.max()),
            slowest=float(fps.min()),
            fastest=float(fps.max()),
            seconds=float((column(clips, "end_s") - column(clips, "start_s")).sum()),
            num_masked=pc.sum(clips["has_mask"]).as_py(),
            sums=statistics.sums() if statistics.num_rows else None,
        )
        self._tables.write_record("kept", group_number(group), totals)
        return clips.select(_KEPT)

    def _is_usual(self, clips: pa.Table) -> pa.Array:
        return pc.is_in(clips["kind"], pa.array(["", self.usual_kind]))

    def _copies_of(self, number: int) -> pa.Table:
        return self._tables.read_if_any("copies", number, COPIES)

    def _copied(self, number: int) -> np.ndarray:
        return column(self._copies_of(number), "video")

    def _dropped_of(self, number: int) -> pa.Table:
        return self._tables.read_if_any("dropped", number, _DROPPED)

    def _kept_places(self, number: int) -> np.ndarray:
        """Returns the rows of a block's clips that are kept."""
        compared = column(self.compared(number), "clip")
        kept = np.setdiff1d(compared, column(self._dropped_of(number), "clip"))
        return kept - first_number(number)

    def _with_clusters(self, number: int, kept: np.ndarray) -> pa.Table:
        """Returns the videos with kept clips: columns of ``VIDEOS``, and those of ``RANKED``."""
        clips = self._tables.read("clips", number, ["video"]).take(kept)
        places = np.unique(column(clips, "video")) - first_number(number)
        videos = self._tables.read("videos", number).take(places)
        found = self._tables.read_if_any("clusters", number, RANKED)
        known = {row["video"]: row for row in found.to_pylist()}
        names = ("video", "episode")
        rows = [
            known.get(video) or {"root": video, "known_split": "", "rank": splits.uniform(episode)}
            for video, episode in zip(*(videos[name].to_pylist() for name in names), strict=True)
        ]
        of_clusters = pa.Table.from_pylist(rows, pa.schema(list(RANKED)[1:]))
        return pa.Table.from_arrays(
            [*videos.columns, *of_clusters.columns], names=[*videos.column_names, *RANKED.names[1:]]
        )

    def _reject(self, number: int, with_clips: pa.Table) -> None:
        """Stores all rejects of a block, sorted, and the totals of the block."""
        videos = self._tables.read("videos", number)
        uri_of = dict(zip(*(videos[n].to_pylist() for n in ("video", "uri")), strict=True))
        length_of = dict(
            zip(*(videos[n].to_pylist() for n in ("video", "duration_s")), strict=True)
        )
        copies, copied = self._copies_of(number).to_pylist(), self._copied(number)
        own = self._tables.read("rejects", number)
        rows = own.filter(~np.isin(column(own, "video"), copied)).to_pylist()
        for copy in copies:
            whole = {"start_s": 0.0, "end_s": length_of[copy["video"]], "reason": "same_file"}
            rows.append(copy | whole)
        rows += self._rejected_clips(number)
        for row in rows:
            row["video_uri"] = uri_of[row["video"]]
        rows.sort(key=lambda row: (row["video"], row["start_s"], row["end_s"]))
        self._tables.write("rejected", number, pa.Table.from_pylist(rows, _REJECTS))
        spans, seconds = Counter[str](), Counter[str]()
        for row in rows:
            spans[row["reason"]] += 1
            seconds[row["reason"]] += row["end_s"] - row["start_s"]
        fallbacks = Counter(filter(None, videos["decoder_fallback"].to_pylist()))
        totals = BlockTotals(
            num_videos=len(videos),
            video_s=float(column(videos, "duration_s").sum()),
            num_with_clips=len(with_clips),
            num_rates_assumed=sum(with_clips["is_rate_assumed"].to_pylist()),
            fallbacks=dict(fallbacks),
            spans=dict(spans),
            seconds=dict(seconds),
        )
        self._tables.write_record("rejected", number, totals)

    def _rejected_clips(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields rejects for clips with labels of an odd kind, and for near-duplicates."""
        left = self._tables.read("left", number)
        odd = left.filter(pc.invert(self._is_usual(left)))
        names = {clip: None for clip in odd["clip"].to_pylist()}
        dropped = {row["clip"]: row for row in self._dropped_of(number).to_pylist()}
        places = np.array([*names, *dropped], np.int64) - first_number(number)
        clips = self._tables.read("clips", number, ["clip", "video", "start_s", "end_s", "kind"])
        for row in clips.take(places).to_pylist():
            what = {name: row[name] for name in ("video", "start_s", "end_s")}
            if (original := dropped.get(row["clip"])) is None:
                detail = f"{row['kind']}, most clips have {self.usual_kind}"
                yield what | {"reason": "labels_mismatch", "detail": detail}
            else:
                yield what | original | {"reason": "near_duplicate"}

    def _links(self) -> pa.Table:
        """Returns the pairs of videos that share a clip: ``EDGES``. Known clips are negative."""
        if not self._has_search:
            return EDGES.empty_table()
        return self._tables.read("links", 0).rename_columns(EDGES.names)

    @property
    def _has_search(self) -> bool:
        return self._tables.is_complete("dropped")

    def _known_of_links(self) -> pa.Table:
        """Returns the videos with a clip that a finished set knows: ``KNOWN_EPISODES``."""
        if not self._has_search:
            return KNOWN_EPISODES.empty_table()
        names = ["clip", "episode_id", "split"]
        known = [self._tables.read("known", n, names) for n in self._tables.numbers("known")]
        links = self._links()
        links = links.filter(column(links, "other") < 0)
        if not known:
            return KNOWN_EPISODES.empty_table()
        clips = pa.concat_tables(known)
        found = clips.take(np.searchsorted(column(clips, "clip"), column(links, "other")))
        columns = [links["video"], found["episode_id"], found["split"]]
        return pa.Table.from_arrays(columns, schema=KNOWN_EPISODES)


def _known_of(copies: pa.Table) -> pa.Table:
    """Returns the files that a finished set knows: ``KNOWN_EPISODES``."""
    known = copies.filter(column(copies, "first") < 0)
    names = ["video", "known_episode", "known_split"]
    return known.select(names).rename_columns(KNOWN_EPISODES.names)
