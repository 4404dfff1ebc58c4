"""How well shot cuts are found: pieces of real single-shot videos in random order, cuts known.

python -m tests.benchmarks.bench_shots    # one JSON line per detector

Where PySceneDetect is installed (``pip install scenedetect opencv-python-headless``), its detectors
go over the same small pictures; then both go over the real videos, edited ones among them, and
``ratio`` is the share of all cuts that both find at the same frame.
"""

import importlib.util
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.stages.motion import shrink
from data_pipelines.stages.resample import SegmentEnd, ShownFrame, Tick, resample
from data_pipelines.stages.shots import ShotsConfig, cut_at_shots
from lafp.video.pyav_decoder import PyAVConfig, PyAVDecoder

VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos"
FPS, PIECE_FRAMES, SIZE_PX, NUM_ORDERS = 10, 15, 64, 4
NAMES: tuple[Literal["adaptive", "content"], ...] = ("adaptive", "content")


def frames_of(path: Path, num_frames: int) -> list[np.ndarray]:
    """The first frames of a video, uint8 [64, 64, 3] at 10 frames per second."""
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
    return list(itertools.islice(shown, num_frames))


def our_cuts(frames: list[np.ndarray], name: Literal["adaptive", "content"]) -> set[int]:
    """Indices of the frames that begin a shot."""
    ticks = [
        Tick(i / FPS, ShownFrame(i / FPS, partial(np.asarray, frame)))
        for i, frame in enumerate(frames)
    ]
    events = cut_at_shots(iter(ticks), ShotsConfig(name=name))
    return {round(FPS * e.time_s) for e in events if isinstance(e, SegmentEnd)}


def their_cuts(frames: list[np.ndarray], name: Literal["adaptive", "content"]) -> set[int]:
    """The same from PySceneDetect, on pictures as small as ours; shots of any length."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    detector = (AdaptiveDetector if name == "adaptive" else ContentDetector)(min_scene_len=1)
    cuts: set[int] = set()
    for i, frame in enumerate(frames):
        picture = np.round(255 * shrink(frame[None])[0]).astype(np.uint8)
        found = detector.process_frame(FrameTimecode(i, float(FPS)), picture[..., ::-1].copy())
        cuts |= {cut.frame_num for cut in found}
    return cuts


def detectors() -> dict[str, Callable[[list[np.ndarray]], set[int]]]:
    """Ours, and PySceneDetect's where it is installed."""
    found = {name: partial(our_cuts, name=name) for name in NAMES}
    if importlib.util.find_spec("scenedetect"):
        found |= {f"pyscenedetect_{name}": partial(their_cuts, name=name) for name in NAMES}
    return found


def known_cuts(name: str, detect: Callable, clips: list[list[np.ndarray]]) -> dict:
    """Finds the cuts between pieces of single-shot videos in random order."""
    num_true = num_found = num_right = num_frames = 0
    seconds = 0.0
    for seed in range(NUM_ORDERS):
        order = np.random.default_rng(seed).permutation(len(clips))
        frames = [frame for i in order for frame in clips[i]]
        started = time.process_time()
        found = detect(frames)
        seconds += time.process_time() - started
        true = set(range(PIECE_FRAMES, len(frames), PIECE_FRAMES))
        num_true, num_found = num_true + len(true), num_found + len(found)
        num_right, num_frames = num_right + len(true & found), num_frames + len(frames)
    return {
        "bench": f"shots/{name}",
        "num_cuts": num_true,
        "precision": round(num_right / max(1, num_found), 4),
        "recall": round(num_right / num_true, 4),
        "ratio": round(num_right / num_true, 4),
        "ms_per_frame": round(1000 * seconds / num_frames, 3),
    }


def agreement(name: Literal["adaptive", "content"], videos: list[list[np.ndarray]]) -> dict:
    """Cuts that ours and PySceneDetect's find in whole videos."""
    both = ours_only = theirs_only = 0
    for frames in videos:
        ours, theirs = our_cuts(frames, name), their_cuts(frames, name)
        both += len(ours & theirs)
        ours_only, theirs_only = ours_only + len(ours - theirs), theirs_only + len(theirs - ours)
    return {
        "bench": f"shots/agreement_{name}",
        "num_frames": sum(map(len, videos)),
        "both": both,
        "ours_only": ours_only,
        "theirs_only": theirs_only,
        "ratio": round(both / max(1, both + ours_only + theirs_only), 4),
    }


def main() -> None:
    clips = [frames_of(path, PIECE_FRAMES) for path in sorted(VIDEOS.glob("robot/*.mp4"))]
    clips = [frames for frames in clips if len(frames) == PIECE_FRAMES]
    found = detectors()
    for name, detect in found.items():
        print(json.dumps(known_cuts(name, detect, clips)), flush=True)
    if len(found) > len(NAMES):
        videos = [frames_of(path, 600) for path in sorted(VIDEOS.glob("internet/*.mp4"))]
        for name in NAMES:
            print(json.dumps(agreement(name, videos)), flush=True)


if __name__ == "__main__":
    main()
