"""Decodes single pictures of videos that may be damaged or hostile, in a process of its own.

A video that crashes, hangs or fills the memory of that process costs only its own pictures: the
process is restarted with the videos after it.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lafp.confined import confined_environment
from lafp.storage import strict_json
from lafp.storage.temporary import TemporaryFolder
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.base import DecodedFrame, VideoDecoder, VideoError

MAX_MEMORY_BYTES = 2 * 2**30
MAX_PIXELS = 8192 * 4320
TIMEOUT_S = 5.0
"""Time-out per video."""
# Time in which the process imports its packages, also on a busy machine.
_START_S = 20.0


@dataclass(frozen=True)
class Still:
    """Describes one requested picture."""

    path: str
    """Path of a local file."""
    time_s: float
    """Time in the video, whose first frame is at 0."""
    side_px: int
    """Longer side of the picture. Smaller videos are not enlarged."""


def read_stills(
    wanted: Sequence[Still], budget_s: float, video_decoder: str = "pyav"
) -> dict[int, np.ndarray]:
    """Decodes the requested pictures; those that fail are left out.

    Args:
        wanted: Requested pictures.
        budget_s: Time for all of them. Pictures that are not decoded by then are left out.
        video_decoder: A name in ``VIDEO_DECODERS``.

    Returns:
        Index in ``wanted`` -> uint8 [H, W, 3].
    """
    end = time.monotonic() + budget_s
    first = 0
    with TemporaryFolder() as folder:
        while first < len(wanted) and time.monotonic() < end:
            requests = [[n, *astuple(wanted[n])] for n in range(first, len(wanted))]
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "lafp.confined",
                        "lafp.video.stills",
                        folder,
                        video_decoder,
                    ],
                    env=confined_environment(folder),
                    input=strict_json.dumps(requests).encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=min(end - time.monotonic(), _START_S + TIMEOUT_S * len(requests)),
                    check=False,
                )
            begun = max((int(path.stem) for path in Path(folder).glob("*.begun")), default=-1)
            if begun < first:  # the process did not even start
                break
            first = begun + 1  # the last video that was begun is done, or killed the process
        found = {}
        for path in Path(folder).glob("*.png"):
            with suppress(OSError), Image.open(path) as image:
                found[int(path.stem)] = np.asarray(image.convert("RGB"))
    return found


def _decode(still: Still, video_decoder: VideoDecoder) -> np.ndarray | None:
    deadline = time.monotonic() + TIMEOUT_S
    info = video_decoder.probe(still.path, MAX_PIXELS, deadline)
    scale = min(1.0, still.side_px / max(info.width_px, info.height_px))
    size = max(1, round(info.width_px * scale)), max(1, round(info.height_px * scale))
    start_s = still.time_s if info.can_start_late else 0.0
    last: DecodedFrame | None = None
    with suppress(VideoError):  # the video ends or breaks here: the frame before serves as well
        for event in video_decoder.frames(still.path, info, *size, deadline, start_s):
            if isinstance(event, DecodedFrame):
                last = event
                if event.time_s >= still.time_s:
                    break
    return last.pixels() if last else None


def main() -> None:
    """Writes ``<index>.png`` into a folder for each request on the standard input."""
    folder, decoder_class = Path(sys.argv[1]), VIDEO_DECODERS.get(sys.argv[2])
    video_decoder = decoder_class(decoder_class.Config())
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    for index, *fields in json.loads(sys.stdin.read()):
        # If this video kills the process, the mark tells the parent where to go on.
        (folder / f"{index}.begun").touch()
        with suppress(Exception):  # any error means no picture
            if (pixels := _decode(Still(*fields), video_decoder)) is not None:
                # The process may be killed while it writes, and the parent must find no half
                # picture.
                Image.fromarray(pixels).save(folder / f"{index}.png.tmp", "png")
                (folder / f"{index}.png.tmp").rename(folder / f"{index}.png")
