"""How well shot cuts are found: real videos with their cuts, joined ones, and what looks like cuts.

python -m tests.benchmarks.bench_shots    # one JSON line per detector and kind of video

`tests/shot_cases.py` says where the cuts are. The right frame of 10 per second is asked for.
Where PySceneDetect is installed (``pip install scenedetect opencv-python-headless``), its detectors
go over the same small pictures, with shots of any length.
"""

import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import shrink
from tests.shot_cases import FPS, SAME_SHOT, Case, held, our_cuts, real_videos

NUM_JOINED = 40
NAMES: tuple[Literal["adaptive", "content"], ...] = ("adaptive", "content")
Detector = Callable[[list[np.ndarray]], set[int]]


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
