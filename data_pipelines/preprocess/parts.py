"""Turns inputs into parts: one task per part decodes, cuts and encodes its videos."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

from data_pipelines.on_ray.cluster_gate import ClusterGate
from data_pipelines.on_ray.joined import is_on_ray
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.label_kinds import LabelKinds
from data_pipelines.preprocess.parts_progress import PartsProgress
from data_pipelines.preprocess.plan import SELECTIONS, Plan, Task, chunk_folder
from data_pipelines.preprocess.rejects import EXPIRED, RejectCounts
from data_pipelines.preprocess.rows import ItemRows, VideoItem, VideoRow
from data_pipelines.preprocess.run_tasks import run_tasks
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.select.blocks import Block
from data_pipelines.preprocess.shards import (
    EXPIRED_SUFFIX,
    long_videos_name,
    piece_part,
    read_long_videos,
    read_part,
    write_part,
)
from data_pipelines.preprocess.sources.file_kinds import is_video
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import entry_name
from lafp.http.host_gate import HostGate
from lafp.runs.wording import counted
from lafp.storage.map_ahead import map_ahead

# The share of rejected videos is judged only after this many videos.
_MIN_JUDGED_VIDEOS = 50


@dataclass
class PartCounts:
    """Counts the results of the inputs of one or more parts."""

    num_videos: int = 0
    num_empty: int = 0
    """Number of videos without clips."""
    num_clips: int = 0
    num_frames: int = 0
    """Number of frames in the clips."""
    video_s: float = 0.0
    """Seconds of video that were processed."""
    unsized_bytes: int = 0
    """Bytes of inputs whose size became known only when they were opened."""
    rejects: RejectCounts = field(default_factory=RejectCounts)
    num_pieces: dict[int, int] = field(default_factory=dict)
    """Index of an input in the task -> number of its pieces, for long videos. Their pieces get
    tasks of their own."""
    label_kinds: LabelKinds = field(default_factory=LabelKinds)

    def add(self, other: "PartCounts") -> None:
        """Adds the counts of other parts."""
        self.num_videos += other.num_videos
        self.num_empty += other.num_empty
        self.num_clips += other.num_clips
        self.num_frames += other.num_frames
        self.video_s += other.video_s
        self.unsized_bytes += other.unsized_bytes
        self.label_kinds.merge(other.label_kinds)
        self.rejects.merge(other.rejects)


def make_parts(
    cfg: PreprocessConfig, plan: Plan, fill: Callable[[Task], Task] = lambda task: task
) -> None:
    """Makes the missing parts.

    Args:
        cfg: The job's config.
        plan: The stored plan.
        fill: Adds to a task what the stored plan must not hold (``SecretUris.fill``).

    Raises:
        ConfigError: So many videos give no clip, or have labels of another kind, that the rest is
            not worth its time; or signatures had expired and were not tried a second time.
        StorageError: A task could not read or write.
    """
    counts = PartCounts()
    work = PartsProgress(cfg.name, plan)
    queue = TaskQueue(plan, work)
    num_expired = 0
    with work.progress, closing(_run(cfg, queue, plan.work, fill)) as parts:
        for task, made in parts:
            if isinstance(made, str):
                raise storage.StorageError(made)
            counts.add(made)
            if task.part not in queue.second_tries:
                num_expired += made.rejects.spans[EXPIRED]
            if is_on_ray():
                from data_pipelines.on_ray.metrics import count_videos  # imports Ray

                num = (made.num_videos, made.num_clips, made.num_frames)
                count_videos(cfg.name, *num, made.rejects.spans)
            # Pieces run next, so that a long video at the end of the plan keeps no core waiting.
            queue.add(_piece_tasks(task, made.num_pieces))
            clips = counted(counts.num_clips, "clip")
            rejects = counted(counts.rejects.spans.total(), "reject")
            work.add(task, made.num_pieces, made.video_s, made.unsized_bytes)
            work.show(f"{clips}, {rejects}")
            # A wrong source should stop the job early, but a few odd files at its beginning should
            # not. ``check_rejects`` judges all parts at the end.
            if counts.num_videos >= _MIN_JUDGED_VIDEOS:
                check_rejects(cfg, counts, num_others=work.num_found)
                if not work.num_found:  # else most clips may lie in parts that were found
                    counts.label_kinds.check()
    if num_expired:
        raise ConfigError(
            f"The signatures of {counted(num_expired, 'address', 'addresses')} had expired. Sign "
            "the list anew and run again, which reads only the parts with these again; or run "
            "again with the list as it is, to leave them out as rejects."
        )


class TaskQueue:
    """Yields the tasks that must run: those of the plan, and of pieces that are found meanwhile.

    It ends when there is no task now, and goes on once pieces were added.
    """

    def __init__(self, plan: Plan, work: PartsProgress) -> None:
        self.second_tries: set[str] = set()
        """Parts of an earlier run that are made anew, because signatures had expired."""
        self._planned, self._work = _tasks(plan, self.second_tries), work
        self._ready: deque[Task] = deque()
        self._selections: str | None = storage.join(plan.work, SELECTIONS)

    def add(self, pieces: Iterable[Task]) -> None:
        """Adds tasks, which run before the rest of the plan."""
        self._ready.extend(pieces)

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        """Reads the plan up to the next task that must run."""
        while not self._ready:
            task, is_done, missing = next(self._planned)
            self._ready.extend(missing)
            if is_done:
                self._work.found(task, missing)
            else:
                self._ready.append(task)
        if self._selections is not None:
            # A selection of an earlier start would hold the rows of parts that are made again now.
            storage.delete_folder(self._selections)
            self._selections = None
        return self._ready.popleft()


def _run(
    cfg: PreprocessConfig, queue: TaskQueue, work: str, fill: Callable[[Task], Task]
) -> Generator[tuple[Task, PartCounts | str]]:
    """Runs tasks until the queue stays empty; yields the result of each."""
    # Unlike a generator, ``map`` goes on where the queue does.
    calls = map(lambda task: (task, (cfg, fill(task), work)), queue)
    try:
        yield from run_tasks(make_part, calls, cfg.tasks, stop=_end_sandboxes)
    finally:
        while _sandboxes:
            _sandboxes.popitem()[1].close()


def _tasks(
    plan: Plan, second_tries: set[str] | None = None
) -> Iterator[tuple[Task, bool, list[Task]]]:
    """Yields every task, whether its part exists, and the tasks for its missing pieces.

    Args:
        plan: The plan.
        second_tries: Parts in which signatures had expired are deleted, and added here. None: they
            count as the others.
    """
    for chunk in range(plan.num_chunks):
        folder = storage.join(plan.work, chunk_folder(chunk))
        # One listing per chunk instead of one request per part.
        found = {info.uri.rpartition("/")[2] for info in storage.list_files(folder)}
        if second_tries is not None:
            expired = [name for name in found if name.endswith(EXPIRED_SUFFIX)]
            for part in (name.removesuffix(EXPIRED_SUFFIX) for name in expired):
                # The mark goes last: a run that is killed in between finds it again.
                for name in (entry_name(part), part + EXPIRED_SUFFIX):
                    storage.delete(storage.join(folder, name))
                found.discard(entry_name(part))
                second_tries.add(f"{chunk_folder(chunk)}/{part}")
        for task in plan.tasks(chunk):
            name = task.part.rpartition("/")[2]
            is_done = entry_name(name) in found
            missing: list[Task] = []
            if is_done and long_videos_name(name) in found:
                missing = [
                    piece
                    for piece in _piece_tasks(task, read_long_videos(plan.work, task.part))
                    if entry_name(piece.part.rpartition("/")[2]) not in found
                ]
            yield task, is_done, missing


def _piece_tasks(task: Task, num_pieces: dict[int, int]) -> list[Task]:
    return [
        Task(
            part=piece_part(task.part, index, piece),
            items=(replace(task.items[index], piece=piece),),
            share=1 / num,
        )
        for index, num in num_pieces.items()
        for piece in range(num)
    ]


def check_rejects(cfg: PreprocessConfig, counts: PartCounts, num_others: int = 0) -> None:
    """Checks that enough videos give clips.

    Args:
        cfg: The job's config.
        counts: Counts of the parts that are known.
        num_others: Number of inputs in other parts, which may all be good.

    Raises:
        ConfigError: More than ``max_reject_fraction`` of the videos give none.
    """
    if counts.num_empty > cfg.max_reject_fraction * (counts.num_videos + num_others):
        raise ConfigError(
            f"{counts.num_empty} of {counts.num_videos} videos in {cfg.source} give no clip, "
            f"max_reject_fraction is {cfg.max_reject_fraction}. {counts.rejects.in_words()} "
            "Name another source, loosen what rejects these, or raise max_reject_fraction."
        )


def make_part(cfg: PreprocessConfig, task: Task, work: str) -> PartCounts | str:
    """Makes one part, as one task.

    Returns:
        Counts for the progress line, or the message of a disk or network error. The message is
        returned because Ray would wrap a raised error in an exception of its own.
    """
    sandbox = _sandbox(cfg)
    inputs = (sandbox.rows(item, may_defer=True) for item in task.items)
    try:
        # Counts return to the driver and rows do not, so that its memory does not grow with the
        # corpus.
        return count_part(task, write_part(inputs, work, f"{task.part}.tar"))
    except (OSError, ConfigError) as error:
        return str(error)


_gate = HostGate()
_sandboxes: dict[int, Sandbox] = {}
"""The sandbox of each thread, which the thread's next task reuses. Tasks of a Ray worker run in one
thread."""


def _sandbox(cfg: PreprocessConfig) -> Sandbox:
    thread = threading.get_ident()
    if thread in _sandboxes and _sandboxes[thread].cfg != cfg:
        _sandboxes.pop(thread).close()
    if thread not in _sandboxes:
        _sandboxes[thread] = Sandbox(cfg, ClusterGate() if is_on_ray() else _gate)
    return _sandboxes[thread]


def _end_sandboxes() -> None:
    """Ends the sandboxes of all threads, and with them the tasks that still run in these."""
    for sandbox in list(_sandboxes.values()):
        sandbox.end()


def count_part(task: Task, items: list[ItemRows]) -> PartCounts:
    """Counts what the inputs of one part came to."""
    is_piece = task.items[0].piece is not None
    counts = PartCounts()
    for index, item in enumerate(items):
        if item.long_video is not None:
            counts.num_pieces[index] = len(item.long_video.spans_s)
        with_clips = {clip.record.video_uri for clip in item.clips}
        counts.video_s += sum(video.covered_s for video in item.videos)
        if not task.items[index].num_bytes:
            counts.unsized_bytes += sum(video.num_bytes for video in item.videos)
        # A piece is not a video of its own: its video was not counted as empty when it was
        # deferred, and other pieces of it may give clips.
        if not is_piece:
            judged = _judged(task.items[index], item)
            counts.num_videos += len(judged)
            counts.num_empty += sum(video.uri not in with_clips for video in judged)
        counts.num_clips += len(item.clips)
        counts.num_frames += sum(clip.record.num_frames for clip in item.clips)
        for clip in item.clips:
            counts.label_kinds.add_clip(clip.label_sums, clip.record.video_uri)
        counts.rejects.add(item.rejects)
    return counts


def _judged(listed: VideoItem, item: ItemRows) -> list[VideoRow]:
    """Returns the videos that tell something of the source.

    A file that is no video tells nothing where its name left open what it is.
    """
    reasons = ("not_a_video", "no_video_stream")
    no_videos = {row.video_uri for row in item.rejects if row.reason in reasons}
    return [
        video
        for video in item.videos
        if video.uri not in no_videos
        or not (listed.is_guess or (video.is_member and not is_video(video.uri)))
    ]


def read_made_parts(plan: Plan) -> Iterator[ItemRows]:
    """Yields the rows of the complete parts, when some parts may be missing."""
    for task, is_done, missing in _tasks(plan):
        if is_done and not missing:
            yield from read_part(plan.work, task.part)


def read_parts(plan: Plan, block: Block) -> Iterator[tuple[Task, list[ItemRows]]]:
    """Yields the rows of the parts of a block in the order of the listing, a few parts ahead.

    Raises:
        StorageError: A part is gone. The resumed job makes it anew.
    """

    def read(task: Task) -> tuple[Task, list[ItemRows]]:
        try:
            return task, read_part(plan.work, task.part)
        except FileNotFoundError as error:
            raise storage.StorageError(f"A part that was made is gone: {error}") from error

    return map_ahead(read, islice(plan.tasks(block.chunk), block.first, block.end))
