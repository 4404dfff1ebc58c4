"""Frames per CPU second of every video decoder, as `preprocess` uses it.

python -m tests.benchmarks.bench_decoders [FOLDER] [NUM_ROUNDS]    # one JSON line per decoder

All decoders go through the same real H.264 files, in turns within each round, in one thread, with
probe and scaling to 64 pixels. `all` wants the pixels of every frame, `tenth` of every tenth one.
`ratio` is PyAV's CPU time divided by the decoder's; above 1 the decoder needs less.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from lafp.config import ConfigError
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.base import DecodedFrame
from tests.benchmarks.bench_preprocess import FILES

SHARED = Path(__file__).parents[3] / "shared/data/videos"
SIDE_PX = 64
REFERENCE = "pyav"


def built() -> dict:
    """The decoders that this machine can run."""
    found = {}
    for name in VIDEO_DECODERS.names():
        cls = VIDEO_DECODERS.get(name)
        try:
            found[name] = cls(cls.Config())
        except ConfigError as error:
            print(error, file=sys.stderr)
    return found


def go_through(decoder, path: Path, every: int) -> int:
    """Decodes a file and takes the pixels of every so many frames; the number of all frames."""
    deadline = time.monotonic() + 600
    info = decoder.probe(str(path), 2**24, deadline)
    scale = SIDE_PX / min(info.width_px, info.height_px)
    size = round(info.width_px * scale), round(info.height_px * scale)
    asked = 0

    def is_wanted(_: float) -> bool:
        nonlocal asked
        asked += 1
        return (asked - 2) % every == 0  # asks about the frame before

    events = decoder.frames(str(path), info, *size, deadline, 0.0, is_wanted)
    num = 0
    for event in events:
        assert isinstance(event, DecodedFrame), event
        if num % every == 0:
            assert event.pixels().shape == (size[1], size[0], 3)
        num += 1
    return num


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    decoders = built()
    for wanted, every in (("all", 1), ("tenth", 10)):
        spent: dict[str, list[float]] = defaultdict(list)
        for _ in range(num_rounds):
            round_s: dict[str, float] = defaultdict(float)
            num_frames = 0
            for path in (folder / name for name in FILES):
                for name, decoder in decoders.items():
                    begin_s = time.process_time()
                    num = go_through(decoder, path, every)
                    round_s[name] += time.process_time() - begin_s
                num_frames += num
            for name, cpu_s in round_s.items():
                spent[name].append(cpu_s)
        for name, rounds in spent.items():
            ratios = sorted(a / b for a, b in zip(spent[REFERENCE], rounds, strict=True))
            line = {
                "bench": f"decoders/{wanted}/{name}",
                "num_frames": num_frames,
                "frames_per_cpu_s": round(num_frames / median(rounds)),
                "ratio": round(median(ratios), 2),
                "ratios": [round(ratio, 2) for ratio in ratios],
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
