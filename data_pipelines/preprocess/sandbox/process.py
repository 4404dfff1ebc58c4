"""Opens and decodes inputs in a process of its own, so that a bad file can kill only this process.

``sandbox`` starts this process and talks to it over an inherited socket.
"""

import ctypes
import gc
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from data_pipelines.preprocess.clip.video_to_clips import item_videos
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sandbox.messages import Messages, send_row
from data_pipelines.preprocess.sources.fetch import use_gate
from lafp.config import ConfigError, config_from_dict
from lafp.http.host_gate import Gate
from lafp.storage import UnreachableError
from lafp.storage.strict_json import from_plain
from lafp.video import VIDEO_DECODERS

_PR_SET_PDEATHSIG = 1


class _RemoteGate(Gate):
    """Forwards calls to the gate of the process that started this one."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        wait_s, lease = self._call("ask", host, requests_per_s, max_connections, lease_s)
        return wait_s, lease

    def release(self, host: str, lease: int) -> None:
        self._call("release", host, lease)

    def pause(self, host: str, seconds: float) -> None:
        self._call("pause", host, seconds)

    def _call(self, method: str, *args: Any) -> Any:
        self._messages.send({"kind": "gate", "method": method, "args": args})
        return self._messages.receive()[0]["result"]


def main() -> None:
    """Serves requests until the other end closes."""
    # If the worker is killed, its decoder must not live on with a file and its memory.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    messages = Messages(socket.socket(fileno=int(sys.argv[1])))
    # The rate of downloads per host is shared by all workers, so their gate lives outside of this
    # process.
    use_gate(_RemoteGate(messages))
    request, _ = messages.receive()
    cfg = config_from_dict(PreprocessConfig, request["config"])
    # Limits allocated memory, not address space, which mapped files also take.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (cfg.limits.max_memory_bytes, hard))
    decoder = VIDEO_DECODERS.build(cfg.decoder)
    gc.freeze()  # imported objects stay anyway, and collecting them took 2 % of the time
    while True:
        try:
            request, _ = messages.receive()
        except EOFError:
            return
        begin_s = time.process_time()
        item = from_plain(VideoItem, request["item"])
        try:
            for number, rows in enumerate(item_videos(item, cfg, decoder, request["may_defer"])):
                # After a crash, the videos before it are skipped: their rows have been delivered.
                if number < request["first"]:
                    continue
                messages.send({"kind": "begin"})
                for row in rows:
                    send_row(row, messages)
                messages.send({"kind": "end"})
            cpu_s = time.process_time() - begin_s
            messages.send({"kind": "done", "cpu_s": cpu_s, "kept_bytes": _resident_bytes()})
        except (OSError, ConfigError) as error:  # concerns the whole job, or seems to
            may_be_item = isinstance(error, UnreachableError)
            message = {"kind": "stopped", "error": str(error), "may_be_item": may_be_item}
            messages.send(message)
        except MemoryError:
            raise  # ends this process, so that the sandbox blames this input
        except Exception:
            messages.send({"kind": "fault", "error": traceback.format_exc()})


def _resident_bytes() -> int:
    """Returns the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
