"""Processes inputs in a child process and survives crashes of that process.

A crash (a decoder's segmentation fault, a file that exhausts the memory) ends only the child
process: the video is tried once more, then rejected, and the other videos of the task go on. A
video that hangs is stopped.
"""

import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import VideoProgress, rejected_input
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import Row, VideoFrames, VideoItem, at_place
from data_pipelines.preprocess.sandbox.files import FileServer
from data_pipelines.preprocess.sandbox.messages import (
    CLIP_KINDS,
    FRAME_KINDS,
    FRAMES,
    Messages,
    TimeLimit,
    row_of,
)
from lafp import storage
from lafp.config import ConfigError, config_to_dict
from lafp.confined import WITH_GPU, confined_environment
from lafp.http.host_gate import Gate
from lafp.storage import StorageError
from lafp.storage.secrets import text_without_secrets
from lafp.storage.temporary import TemporaryFolder

# Decoders leak a little memory. A process that keeps more than this after an input is restarted.
_MAX_KEPT_BYTES = 512 * 2**20
# A process that gets no input for this long ends. Ray keeps its workers for the next stages, where
# their decoders would only hold memory. To start one again takes 0.4 s of CPU time.
_MAX_IDLE_S = 10.0
# From this share of it on, the process may be about to end, and is not used again.
_USABLE_SHARE = 0.8
# Margin after the video's own time-out, which comes first if the decoder still returns.
_GRACE_S = 20.0
# Opening may include a download, which has its own time-outs; this stops anything else that hangs.
_MAX_OPENING_S = 2 * 3600.0
_MAX_START_S = 120.0
_NO_START = (
    "The process that decodes does not start on {host} ({cause}). Its output is above, or in the "
    "log of Ray's worker; `lafp doctor` starts one on each node and says what is missing."
)
_ENDED = "the job ended"
_DYING_S = 10.0
"""A process that closed its end is gone after this time."""
# The process may also have died of something else, such as the machine's memory. So a file is
# blamed only if it happens twice.
_NUM_TRIES = 2


@dataclass(frozen=True)
class _Died(Exception):  # noqa: N818 - an event, not an error
    """Says that the process ended during an input."""

    position: int
    """Number of the current video in the input."""
    is_open: bool
    """Whether that video was already open."""
    reason: str
    """Reject reason (a key of ``rejects.REASONS``) if it happens again."""
    cause: str


class _Unreachable(Exception):  # noqa: N818 - an event, not an error
    """Says that storage did not answer for this input, but does for others."""


class Sandbox:
    """Runs one process for many inputs and restarts it when it dies. Use as a context manager."""

    def __init__(self, cfg: PreprocessConfig, gate: Gate) -> None:
        """Stores the arguments. The process starts with the first input.

        Args:
            cfg: The job's config.
            gate: Gate for the downloads of the process.
        """
        self.cfg = cfg
        self.cpu_s = 0.0
        """CPU time of all inputs that were processed to their end."""
        self._gate = gate
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: Messages
        self._files: FileServer
        self._folder: TemporaryFolder
        self._kept_bytes = 0
        self._is_ended = False
        self._idle_since_s = time.monotonic()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._messages.close()
            self._folder.cleanup()
            self._process = None

    def end(self) -> None:
        """Ends the process for good, from any thread: ``rows`` raises InterruptedError."""
        self._is_ended = True
        if (process := self._process) is not None:
            process.kill()

    def rows(self, item: VideoItem, may_defer: bool = False) -> Iterator[Row]:
        """Yields the rows of one input, like ``item_videos``, whatever the input does.

        Args:
            item: The input.
            may_defer: Whether a long video becomes a ``LongVideo``, so that other tasks process its
                pieces.

        Raises:
            StorageError: The disk or S3 failed; the job can be resumed.
            ConfigError: The process or its video decoder does not start on this machine.
            InterruptedError: ``end`` was called.
            RuntimeError: A fault of the pipeline, with its traceback.
        """
        return self._rows(item, {"may_defer": may_defer, "max_side_px": None})

    def frames(self, item: VideoItem, max_side_px: int) -> Iterator[Row]:
        """Yields the row of a video file, then its frames, like ``video_frames``; or a reject.

        ``limits.timeout_s`` bounds the wait for each ``VideoFrames``, not the time of the consumer.
        Where another ``VideoRow`` comes, the video is tried again: earlier rows do not count.

        Args:
            item: The input, a video file.
            max_side_px: See ``video_frames``.

        Raises:
            Exception: See ``rows``.
        """
        return self._rows(item, {"may_defer": False, "max_side_px": max_side_px})

    def _rows(self, item: VideoItem, how: dict[str, Any]) -> Iterator[Row]:
        first, tries = 0, Counter[int]()
        while True:
            seen = VideoProgress()
            try:
                for row in self._attempt(item, first, how):
                    seen.add(row)
                    yield row
                return
            except _Died as died:
                if self._is_ended:  # the input is not to blame
                    raise InterruptedError(_ENDED) from None
                tries[died.position] += 1
                # A second try after a time-out would only take as long again.
                is_last_try = died.reason == "timeout" or tries[died.position] == _NUM_TRIES
                # A video that was open is rejected now. If it is tried again, the rows of that try
                # replace the reject.
                if died.is_open or is_last_try:
                    yield from _given_up(item, seen, died)
                if is_last_try and not died.is_open:
                    return
                first = died.position + is_last_try

    def _attempt(self, item: VideoItem, first: int, how: dict[str, Any]) -> Iterator[Row]:
        messages, kinds = self._started(), FRAME_KINDS if how["max_side_px"] else CLIP_KINDS
        position, is_open, is_finished = first, False, False
        size: tuple[int, ...] = ()
        messages.limit = TimeLimit(_MAX_OPENING_S)
        try:
            # The worker itself downloads, so the process need not know the signature.
            bare = replace(item, secret_uri="")
            request = {"item": bare, "first": first, **how}
            messages.send(request)
            while not is_finished:
                message, data = messages.receive()
                kind = message["kind"]
                if kind in kinds:
                    is_open |= kind == "video"
                    row = row_of(message, data)
                    size = _frame_size(row, size, how["max_side_px"])
                    yield row
                elif kind == "end":
                    position, is_open = position + 1, False
                    messages.limit = TimeLimit(_MAX_OPENING_S)
                elif kind != "begin":
                    is_finished = self._answer(message, item)
                # The consumer of frames takes its own time with each ``VideoFrames``.
                if kind in ("begin", FRAMES):
                    messages.limit = TimeLimit(self.cfg.limits.timeout_s + _GRACE_S)
        except TimeoutError:
            raise _Died(position, is_open, "timeout", "the decoding process hung") from None
        # Messages that lack something come from a decoder that was broken into.
        except (EOFError, ConnectionError, LookupError, TypeError, ValueError):
            cause = self._cause_of_death()
            raise _Died(position, is_open, "killed_worker", cause) from None
        except _Unreachable as error:
            raise _Died(position, is_open, "unreadable", str(error)) from None
        finally:
            self._idle_since_s = time.monotonic()
            if not is_finished:  # messages that are still under way must not reach the next input
                self.close()

    def _answer(self, message: dict[str, Any], item: VideoItem) -> bool:
        """Handles a message that is not a row. Returns whether the input is finished."""
        if message["kind"] == "file":
            self._files.answer(message["method"], message["args"], item)
            return False
        if message["kind"] == "stopped":
            uris = filter(None, (item.uri, item.labels_uri, item.masks_uri))
            # If storage answers otherwise, only this input is to blame, and the job goes on.
            if message["may_be_item"] and all(map(storage.is_reachable, uris)):
                raise _Unreachable(message["error"])
            raise StorageError(message["error"])
        if message["kind"] == "fault":
            raise RuntimeError(text_without_secrets(f"{item.uri}: {message['error']}"))
        cpu_s, kept_bytes = message["cpu_s"], message["kept_bytes"]
        if not (isinstance(cpu_s, float) and isinstance(kept_bytes, int)):
            raise TypeError("a decoder that was broken into chose these")
        self.cpu_s += cpu_s
        self._kept_bytes = kept_bytes
        return True

    def _started(self) -> Messages:
        """Returns the messages of the process, which is started if it does not run.

        Raises:
            ConfigError: The process or its video decoder does not start, so no input is to blame.
        """
        has_ended = self._process is not None and self._process.poll() is not None
        is_old = time.monotonic() - self._idle_since_s > _USABLE_SHARE * _MAX_IDLE_S
        if has_ended or is_old or self._kept_bytes > _MAX_KEPT_BYTES:
            self.close()
        tries = 0
        while self._process is None:
            self._start()
            try:
                first = {"config": config_to_dict(self.cfg), "max_idle_s": _MAX_IDLE_S}
                self._messages.limit = TimeLimit(_MAX_START_S)
                self._messages.send(first)
                # The process answers once it is confined and has loaded its code.
                answer, _ = self._messages.receive()
            except (EOFError, OSError):  # a time-out, too
                cause, tries = self._cause_of_death(), tries + 1
                if tries == _NUM_TRIES:
                    host = socket.gethostname()
                    raise ConfigError(_NO_START.format(host=host, cause=cause)) from None
                continue
            if answer["kind"] == "unusable":
                self.close()
                raise ConfigError(f"On {socket.gethostname()}: {answer['error']}")
        return self._messages

    def _start(self) -> None:
        if self._is_ended:
            raise InterruptedError(_ENDED)
        ours, theirs = socket.socketpair()
        # Removed here, because a process that is killed cannot clear up.
        self._folder = TemporaryFolder()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lafp.confined",
                # Only then may it open the GPU's device files, of which each is an attack surface.
                *([WITH_GPU] if getattr(self.cfg.video_decoder, "device", "cpu") == "cuda" else []),
                "data_pipelines.preprocess.sandbox.process",
                str(theirs.fileno()),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Away from the user's terminal: it could type there, and Ctrl-C would reach it first.
            start_new_session=True,
            # One thread, as Ray's workers have it: there is a process for every core.
            env=confined_environment(self._folder.name) | {"OMP_NUM_THREADS": "1"},
        )
        if self._is_ended:  # since the line above
            self._process.kill()
        # If this process kept the other end open, it would never read that the child has died.
        theirs.close()
        self._messages, self._kept_bytes = Messages(ours), 0
        self._files = FileServer(self._messages, self.cfg, self._gate)

    def _cause_of_death(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            self.close()
            return "it hung, or sent bytes that are no message"
        self.close()
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"


def _frame_size(row: Row, size: tuple[int, ...], max_side_px: int) -> tuple[int, ...]:
    """Returns height and width of a video's frames, where ``size`` is that of earlier ones.

    Raises:
        ValueError: A decoder that was broken into sends frames of another size, or larger ones.
    """
    if not isinstance(row, VideoFrames):
        return size
    found = row.pixels.shape[1:3]
    if (size and found != size) or max(found) > max_side_px:
        raise ValueError(f"frames of {found}")
    return found


def _given_up(item: VideoItem, seen: VideoProgress, died: _Died) -> Iterator[Row]:
    """Yields the rows of a video that ended the process; one that hung keeps its earlier rows."""
    if not died.is_open:
        uri = f"{item.uri}#{died.position}" if died.position else item.uri
        detail = f"{died.cause} while it was opened; the rest of the file is not read"
        rows = rejected_input(replace(item, uri=uri), Refused(died.reason, detail))
        yield from at_place(rows, died.position)
        return
    assert seen.video is not None
    if died.reason != "timeout":
        yield seen.video
        seen.add(seen.video)
    yield seen.give_up(died.reason, died.cause)
