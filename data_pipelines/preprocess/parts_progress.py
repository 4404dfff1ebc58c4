"""Shows the progress of preprocessing by the bytes of the inputs, in seconds of video.

The number of files does not measure work: one video is a second long, the next an hour. The seconds
of a video are known only once it is opened, its bytes mostly before. So the share that is done is
counted in bytes, and the total of seconds is extrapolated from it.
"""

import math
from collections.abc import Iterable, Mapping

from data_pipelines.preprocess.plan import Plan, Task
from lafp.runs.progress import Progress, duration
from lafp.runs.wording import number

_WORD = "videos"


class PartsProgress:
    """Adds up the work of parts, both found and made, and shows it."""

    def __init__(self, name: str, plan: Plan) -> None:
        """Starts with nothing done.

        Args:
            name: Name of the source.
            plan: The plan of all work.
        """
        self.progress = Progress(f"preprocess {name}", plan.num_items, _WORD)
        self._plan = plan
        self._made, self._found = _Work(), _Work()
        self._video_s = 0.0
        self._opened_bytes, self._num_opened = 0, 0.0

    @property
    def is_done(self) -> bool:
        """Returns whether all inputs are done."""
        return self._num_items >= self._plan.num_items

    @property
    def num_found(self) -> int:
        """Returns the number of inputs in parts that an earlier run made."""
        return math.ceil(self._found.num_items)

    def found(self, task: Task, missing: Iterable[Task]) -> None:
        """Counts a part that an earlier run made.

        Args:
            task: The part's task.
            missing: Tasks for pieces of its long videos that are still missing.
        """
        self._found.add(task, 1)
        for piece in missing:
            self._found.add(piece, -1)

    def add(
        self, task: Task, num_pieces: Mapping[int, int], video_s: float, opened_bytes: int
    ) -> None:
        """Counts a part that this run made.

        Args:
            task: The part's task.
            num_pieces: Indices of the items that are left to tasks for their pieces.
            video_s: Seconds of video that were processed.
            opened_bytes: Bytes of items whose size the listing did not know.
        """
        before = self._made.num_unsized
        self._made.add(task, 1, without=num_pieces)
        self._video_s += video_s
        self._opened_bytes += opened_bytes
        self._num_opened += self._made.num_unsized - before

    def show(self, detail: str) -> None:
        """Prints a line of progress."""
        share_made, share_found = (self._share(work) for work in (self._made, self._found))
        # Speed counts only what this run made, because the work of an earlier run took it no time.
        made_of_rest = share_made / max(1 - share_found, 1e-9)
        seconds = f"{duration(self._video_s)} of video"
        if not self.is_done:
            all_s = self._video_s / max(made_of_rest, 1e-9)
            left = self.progress.time_left(made_of_rest, 1.0)
            # Sizes are partly guessed, so the share may reach 100 % before the work is done.
            percent = f"{100 * min(share_made + share_found, 0.99):.0f} %"
            seconds = f"{duration(self._video_s)} of about {duration(all_s)} of video ({percent})"
        else:
            left = ""
        speed = f"{number(self.progress.per_s(self._video_s))} x real time"
        num = int(self._num_items + 1e-6)
        text = f"{num:,}/{self._plan.num_items:,} {_WORD}, {seconds}, {speed}{left}  {detail}"
        self.progress.show(text, is_last=self.is_done)

    @property
    def _num_items(self) -> float:
        return round(self._made.num_items + self._found.num_items, 6)

    def _share(self, work: "_Work") -> float:
        total = self._plan.num_bytes + self._plan.num_unsized * self._mean_bytes
        return (work.num_bytes + work.num_unsized * self._mean_bytes) / max(total, 1e-9)

    @property
    def _mean_bytes(self) -> float:
        """Returns the size to assume for an item whose size the listing does not know."""
        if self._num_opened and self._opened_bytes:
            return self._opened_bytes / self._num_opened
        num_sized = self._plan.num_items - self._plan.num_unsized
        return self._plan.num_bytes / num_sized if self._plan.num_bytes else 1.0


class _Work:
    """Adds up the work of some tasks."""

    def __init__(self) -> None:
        self.num_items = self.num_bytes = self.num_unsized = 0.0

    def add(self, task: Task, sign: int, without: Iterable[int] = ()) -> None:
        left_out = frozenset(without)
        for index, item in enumerate(task.items):
            if index not in left_out:
                amount = sign * task.share
                self.num_items += amount
                self.num_bytes += amount * item.num_bytes
                self.num_unsized += amount * (not item.num_bytes)
