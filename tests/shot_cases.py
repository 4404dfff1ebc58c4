"""Real videos with the places of their cuts, and changes of a shot that are no cuts.

`shot_labels.csv` has the cuts inside real videos, looked at frame by frame, and spans of which
nobody can say. All other changes in them are none.
"""

import csv
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.preprocess.clip.filters.shots import ShotsConfig, cut_at_shots
from data_pipelines.preprocess.clip.resample import SegmentEnd, ShownFrame, Tick, resample
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos"
LABELS = Path(__file__).with_name("shot_labels.csv")
FPS, SIZE_PX, MAX_FRAMES = 10, 64, 300


@dataclass
class Case:
    """Frames at 10 per second, and which of them begin a shot."""

    frames: list[np.ndarray]
    cuts: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)


def frames_of(path: Path) -> list[np.ndarray]:
    """The first frames of a video, uint8 [64, 64, 3] at 10 per second."""
    decoder, deadline = PyAVDecoder(PyAVConfig()), time.monotonic() + 600
    info = decoder.probe(str(path), 1 << 26, deadline)
    ticks = resample(
        decoder.frames(str(path), info, SIZE_PX, SIZE_PX, deadline),
        fps=FPS,
        source_fps=info.fps,
        duration_s=info.duration_s,
        max_hold_s=60.0,
    )
    shown = (event.source.pixels for event in ticks if isinstance(event, Tick))
    return list(itertools.islice(shown, MAX_FRAMES))


def real_videos(folder: Path = VIDEOS, one_of: int = 1) -> dict[str, Case]:
    """Videos that decode, with their cuts, by path: one of so many, and all that have labels."""
    with LABELS.open() as file:
        labels = list(csv.DictReader(file))
    labeled, cases, num = {row["path"] for row in labels}, {}, 0
    for kind in ("internet", "robot", "labeled"):
        for path in sorted((folder / kind).glob("**/*")):
            if path.suffix in (".mp4", ".mkv", ".avi", ".webm", ".gif", ".mov", ".flv", ".3gp"):
                num, name = num + 1, str(path.relative_to(folder))
                if name in labeled or num % one_of == 0:
                    cases[name] = Case(frames_of(path))
    for row in labels:
        case = cases[row["path"]]
        first, last = (round(FPS * float(row[key])) for key in ("start_s", "end_s"))
        (case.cuts if row["what"] == "cut" else case.unsure).update(range(first, last + 1))
    return cases


def held(frames: list[np.ndarray], ticks: int) -> list[np.ndarray]:
    """Each picture for so many ticks."""
    return [frame for frame in frames[::ticks] for _ in range(ticks)]


def lit(frames: list[np.ndarray], gains: np.ndarray) -> list[np.ndarray]:
    """Other exposures, from frame to frame."""
    return [(f * g).clip(0, 255).astype(np.uint8) for f, g in zip(frames, gains, strict=True)]


def steps(frames: list[np.ndarray], gain: float) -> list[np.ndarray]:
    """Another exposure from the middle on."""
    return lit(frames, np.where(np.arange(len(frames)) < len(frames) // 2, 1.0, gain))


def flash(frames: list[np.ndarray]) -> list[np.ndarray]:
    """White for two ticks in the middle."""
    middle = len(frames) // 2
    return [*frames[:middle], *[np.full_like(frames[0], 255)] * 2, *frames[middle + 2 :]]


def faded(frames: list[np.ndarray]) -> list[np.ndarray]:
    """To black and back within 2 s, as at the middle."""
    return lit(frames, np.clip(np.abs(np.arange(len(frames)) - len(frames) // 2) / 10, 0, 1))


SAME_SHOT: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "darker": partial(steps, gain=0.6),
    "brighter": partial(steps, gain=1.6),
    "flash": flash,
    "held_for_0.2_s": partial(held, ticks=2),
    "held_for_0.3_s": partial(held, ticks=3),
    "three_times_as_fast": lambda frames: frames[::3],
    "faded_to_black_and_back": faded,
}


def our_cuts(frames: list[np.ndarray], name: Literal["adaptive", "content"]) -> set[int]:
    """Indices of the frames that begin a shot."""
    ticks = [
        Tick(i / FPS, ShownFrame(i / FPS, partial(np.asarray, frame)))
        for i, frame in enumerate(frames)
    ]
    events = cut_at_shots(iter(ticks), ShotsConfig(name=name), FPS)
    return {round(FPS * e.time_s) for e in events if isinstance(e, SegmentEnd)}
