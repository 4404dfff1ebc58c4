"""Opens and decodes inputs in a process of its own, so that a bad file can kill only this process.

``sandbox`` starts this process and talks to it over an inherited socket. ``lafp.confined`` has
taken its rights away.
"""

import ctypes
import gc
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.preprocess.clip.video_frames import video_frames
from data_pipelines.preprocess.clip.video_to_clips import item_videos
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import Row, VideoItem
from data_pipelines.preprocess.sandbox.files import RemoteFiles
from data_pipelines.preprocess.sandbox.messages import Messages, TimeLimit, send_row
from data_pipelines.preprocess.sources.fetch import download_through
from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.storage import UnreachableError
from lafp.storage.strict_json import from_plain
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.base import VideoDecoder

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_MORE_FILE_BYTES = 2**20


def main() -> None:
    """Serves requests until the other end closes, or sends none for long."""
    # If the worker is killed, its decoder must not live on with a file and its memory.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    messages = Messages(socket.socket(fileno=int(sys.argv[1])))
    files = RemoteFiles(messages)
    storage.read_remote_through(files)
    download_through(files.downloaded)
    request, _ = messages.receive()
    cfg = config_from_dict(PreprocessConfig, request["config"])
    # Limits allocated memory, not address space, which mapped files also take.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (cfg.limits.max_memory_bytes, hard))
    # Members of tars are the largest files that are written here.
    max_file_bytes = cfg.limits.max_bytes + _MORE_FILE_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    try:
        video_decoder = VIDEO_DECODERS.build(cfg.video_decoder)
    except ConfigError as error:
        messages.send({"kind": "unusable", "error": str(error)})
        return
    messages.send({"kind": "ready"})
    gc.freeze()  # imported objects stay anyway, and collecting them took 2 % of the time
    max_idle_s = request["max_idle_s"]
    while True:
        messages.limit = TimeLimit(max_idle_s)
        try:
            request, _ = messages.receive()
        except (EOFError, TimeoutError):
            return
        messages.limit = None
        begin_s = time.process_time()
        item = from_plain(VideoItem, request["item"])
        try:
            for number, rows in enumerate(_videos(request, item, cfg, video_decoder)):
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


def _videos(
    request: dict[str, Any], item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Iterator[Iterator[Row]]:
    """Yields the rows of each video of an input: its clips, or its frames as they are."""
    if side_px := request["max_side_px"]:
        return video_frames(item, cfg, video_decoder, side_px)
    return item_videos(item, cfg, video_decoder, request["may_defer"])


def _resident_bytes() -> int:
    """Returns the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
