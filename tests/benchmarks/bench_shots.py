"""How well shot cuts are found: real videos with their cuts, joined ones, and what looks like cuts.

python -m tests.benchmarks.bench_shots    # one JSON line per detector and kind of video

`shot_labels.csv` has the cuts inside real videos, looked at frame by frame, and spans of which
nobody can say. All other changes in them are none. The right frame of 10 per second is asked for.
Where PySceneDetect is installed (``pip install scenedetect opencv-python-headless``), its detectors
go over the same small pictures, with shots of any length.
"""

import csv
import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.preprocess.clip.filters.shots import ShotsConfig, cut_at_shots
from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.resample import SegmentEnd, ShownFrame, Tick, resample
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos"
LABELS = Path(__file__).with_name("shot_labels.csv")
FPS, SIZE_PX, MAX_FRAMES, NUM_JOINED = 10, 64, 300, 40
NAMES: tuple[Literal["adaptive", "content"], ...] = ("adaptive", "content")
Detector = Callable[[list[np.ndarray]], set[int]]


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


def cases_by_kind(real: dict[str, Case]) -> Iterator[tuple[str, list[Case]]]:
    """Real videos, joins of them, and changes of single shots that are no cuts."""
    rng = np.random.default_rng(0)
    shots = {p: c.frames for p, c in real.items() if not c.cuts | c.unsure and len(c.frames) >= 25}
    paths = sorted(shots)
    yield "real", list(real.values())

    def piece(path: str, length: int) -> list[np.ndarray]:
        first = rng.integers(0, max(1, len(shots[path]) - length))
        return shots[path][first : first + length]

    def joined(pieces: list[list[np.ndarray]]) -> Case:
        edges = np.cumsum([len(frames) for frames in pieces])[:-1]
        return Case([frame for frames in pieces for frame in frames], set(edges.tolist()))

    some = [[str(p) for p in rng.choice(paths, 6, replace=False)] for _ in range(NUM_JOINED)]
    yield "joined", [joined([piece(p, int(rng.integers(8, 25))) for p in ps]) for ps in some]
    yield "joined_and_held", [joined([held(piece(p, 24), 3) for p in ps]) for ps in some]
    labs = {p: p.split("__")[0] for p in paths if p.startswith(("robot/bridge", "robot/openvla"))}
    pairs = [(a, b) for a, b in itertools.permutations(labs, 2) if labs[a] == labs[b]]
    chosen = [pairs[i] for i in rng.choice(len(pairs), 60, replace=False)]
    yield "joined_of_one_lab", [joined([piece(p, 20) for p in pair]) for pair in chosen]
    for kind, change in SAME_SHOT.items():
        yield kind, [Case(change(frames)) for frames in shots.values()]


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


def their_cuts(frames: list[np.ndarray], name: Literal["adaptive", "content"]) -> set[int]:
    """The same from PySceneDetect, on pictures as small as ours."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    detector = (AdaptiveDetector if name == "adaptive" else ContentDetector)(min_scene_len=1)
    cuts: set[int] = set()
    for i, frame in enumerate(frames):
        picture = np.round(255 * shrink(frame[None])[0]).astype(np.uint8)
        found = detector.process_frame(FrameTimecode(i, float(FPS)), picture[..., ::-1].copy())
        cuts |= {cut.frame_num for cut in found}
    return cuts


def detectors() -> dict[str, Detector]:
    """Ours, and PySceneDetect's where it is installed."""
    found: dict[str, Detector] = {name: partial(our_cuts, name=name) for name in NAMES}
    if importlib.util.find_spec("scenedetect"):
        found |= {f"pyscenedetect_{name}": partial(their_cuts, name=name) for name in NAMES}
    return found


def measured(detect: Detector, cases: list[Case]) -> dict[str, float | None]:
    """Cuts found, cuts missed and other changes taken for cuts."""
    num_right = num_wrong = num_missed = num_frames = 0
    started_s = time.process_time()
    for case in cases:
        found = detect(case.frames) - case.unsure
        num_right += len(found & case.cuts)
        num_wrong += len(found - case.cuts)
        num_missed += len(case.cuts - found)
        num_frames += len(case.frames)
    cpu_s = time.process_time() - started_s
    num_cuts, num_found = num_right + num_missed, num_right + num_wrong
    return {
        "videos": len(cases),
        "cuts": num_cuts,
        "wrong": num_wrong,
        "precision": round(num_right / num_found, 4) if num_found else None,
        "recall": round(num_right / num_cuts, 4) if num_cuts else None,
        "ratio": round((num_right + 1) / (num_right + num_wrong + num_missed + 1), 4),
        "ms_per_frame": round(1000 * cpu_s / num_frames, 3),
    }


def main() -> None:
    kinds = list(cases_by_kind(real_videos()))
    for name, detect in detectors().items():
        for kind, cases in [*kinds, ("all", [case for _, each in kinds for case in each])]:
            print(
                json.dumps({"bench": f"shots/{name}/{kind}", **measured(detect, cases)}), flush=True
            )


if __name__ == "__main__":
    main()
