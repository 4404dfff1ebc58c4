"""How well shot cuts are found: pieces of real single-shot videos in random order, cuts known.

python -m tests.benchmarks.bench_shots    # one JSON line per detector
"""

import json
import time
from pathlib import Path

import numpy as np

from data_pipelines.stages.resample import SegmentEnd, ShownFrame, Tick, resample
from data_pipelines.stages.shots import ShotsConfig, cut_at_shots
from lafp.video.pyav_decoder import PyAVConfig, PyAVDecoder

VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos" / "robot"
FPS, PIECE_FRAMES, SIZE_PX, NUM_ORDERS = 10, 15, 64, 4


def pieces() -> list[list[np.ndarray]]:
    """The first 1.5 s of each video, uint8 [64, 64, 3] at 10 frames per second."""
    decoder, found = PyAVDecoder(PyAVConfig()), []
    for path in sorted(VIDEOS.glob("*.mp4")):
        deadline = time.monotonic() + 600
        info = decoder.probe(str(path), 1 << 26, deadline)
        ticks = resample(
            decoder.frames(str(path), info, SIZE_PX, SIZE_PX, deadline),
            fps=FPS,
            source_fps=info.fps,
            duration_s=info.duration_s,
            max_hold_s=2.0,
        )
        frames: list[np.ndarray] = []
        for event in ticks:
            if isinstance(event, Tick):
                frames.append(event.source.pixels)
            if len(frames) == PIECE_FRAMES:
                found.append(frames)
                break
    return found


def main() -> None:
    clips = pieces()
    for name in ("adaptive", "content"):
        num_true = num_found = num_right = num_frames = 0
        seconds = 0.0
        for seed in range(NUM_ORDERS):
            order = np.random.default_rng(seed).permutation(len(clips))
            frames = [frame for i in order for frame in clips[i]]
            ticks = [
                Tick(i / FPS, ShownFrame(i / FPS, lambda frame=frame: frame))
                for i, frame in enumerate(frames)
            ]
            started = time.process_time()
            events = list(cut_at_shots(iter(ticks), ShotsConfig(name=name)))
            seconds += time.process_time() - started
            found = {round(FPS * e.time_s) for e in events if isinstance(e, SegmentEnd)}
            true = set(range(PIECE_FRAMES, len(frames), PIECE_FRAMES))
            num_true, num_found = num_true + len(true), num_found + len(found)
            num_right, num_frames = num_right + len(true & found), num_frames + len(frames)
        line = {
            "bench": f"shots/{name}",
            "num_cuts": num_true,
            "precision": round(num_right / max(1, num_found), 4),
            "recall": round(num_right / num_true, 4),
            "ratio": round(num_right / num_true, 4),
            "ms_per_frame": round(1000 * seconds / num_frames, 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
