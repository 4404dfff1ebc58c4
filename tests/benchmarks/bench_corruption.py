"""What damage does to decoded frames: overwrites random bytes in real videos, compares all frames.

python -m tests.benchmarks.bench_corruption [--seeds 3] [--codec vp9]   # one JSON line per result
python -m tests.benchmarks.bench_corruption --cost                      # of the gate itself

Real clips are coded anew with each codec, and real files of each codec are taken as they are. Bytes
at random places of the media data (headers and index stay whole) are replaced by random ones. Every
frame that survives is compared with the clean decode by its presentation time, at half size:

- wrong: differs by more than half a level of 255 on average, or by 8 in some sixteenth of a side;
- changed: any value differs by more than 2 levels.

``wrong`` and ``changed`` are shares of the surviving frames, ``kept`` is the share of frames that
survive, ``ratio`` the share of undamaged groups of pictures of which every frame survives.
``wrong_interval`` is a 95 % bootstrap interval over damaged copies.

``--first-only`` leaves out the second decoders, so that it shows what they are for.

``--cost`` decodes real files with the gate and with the same decoder alone, taking turns; ``ratio``
is CPU time with the gate over CPU time without.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import av
import numpy as np

from lafp.video.damage.signs import STRICTER_DECODERS
from lafp.video.decoders import pyav
from lafp.video.decoders.base import DecodedFrame
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.damaged_videos import ENCODERS, REAL, Decode, coded_files, decode_gate, measure


def decode_decord(path: Path, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """What decord returns until it raises."""
    import decord

    frames = {}
    try:
        reader = decord.VideoReader(str(path), width=size[0], height=size[1], num_threads=1)
        for i in range(len(reader)):
            pixels = reader[i].asnumpy()
            frames[round(1000 * float(reader.get_frame_timestamp(i)[0]))] = pixels
    except (decord.DECORDError, RuntimeError, IndexError):
        pass
    return frames


def decode_torchcodec(path: Path, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """What torchcodec returns until it raises, shrunk by striding."""
    from torchcodec.decoders import VideoDecoder

    frames = {}
    try:
        reader = VideoDecoder(str(path), seek_mode="approximate", num_ffmpeg_threads=1)
        for i in range(reader.metadata.num_frames):
            frame = reader.get_frame_at(i)
            pixels = frame.data.permute(1, 2, 0).numpy()
            frames[round(1000 * frame.pts_seconds)] = pixels[::2, ::2]
    except (RuntimeError, IndexError, ValueError, TypeError):
        pass
    return frames


def decoders() -> dict[str, Decode]:
    """All that can be imported, ours first, then ours in strict mode."""
    found = {"lafp": partial(decode_gate, decoder=PyAVDecoder(PyAVConfig()))}
    found["strict"] = partial(decode_gate, decoder=PyAVDecoder(PyAVConfig(strict=True)))
    for name, decode in (("decord", decode_decord), ("torchcodec", decode_torchcodec)):
        try:
            __import__(name)
        except (ImportError, RuntimeError):
            continue
        found[name] = decode
    return found


def lines(codec: str, counts: dict) -> list[dict]:
    """One result per decoder and number of overwritten bytes."""
    results = []
    for (name, num_bytes), count in counts.items():
        kept = max(1, count["kept"])
        results.append(
            {
                "bench": f"corruption/{codec}/{name}",
                "num_bytes": num_bytes,
                "num_copies": len(count["copies"]),
                "kept": round(count["kept"] / max(1, count["all"]), 3),
                "wrong": round(count["wrong"] / kept, 4),
                "wrong_interval": wrong_interval(count["copies"]),
                "changed": round(count["changed"] / kept, 4),
                "undamaged_groups": count["groups"],
                "ratio": round(count["groups_kept"] / max(1, count["groups"]), 3),
            }
        )
    return results


def wrong_interval(copies: list[tuple[int, int]]) -> list[float]:
    """Of the share of wrong frames among all survivors, drawing copies."""
    drawn = np.random.default_rng(0).integers(len(copies), size=(2000, len(copies)))
    kept, wrong = np.moveaxis(np.array(copies)[drawn].sum(axis=1), -1, 0)
    low, high = np.quantile(wrong / np.maximum(kept, 1), [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]


def cost(codec: str, paths: list[Path], num_rounds: int = 3) -> dict:
    """CPU time of decoding with the gate over that of decoding alone, without scaling."""
    decoder = PyAVDecoder(PyAVConfig())
    spent: dict[str, list[float]] = {"gate": [], "alone": []}
    infos = [decoder.probe(str(path), 1 << 26, time.monotonic() + 120) for path in paths]
    for _ in range(num_rounds):
        for way, times in spent.items():
            start_s = time.process_time()
            num_frames = 0
            for path, info in zip(paths, infos, strict=True):
                if way == "gate":
                    events = decoder.frames(str(path), info, 32, 32, time.monotonic() + 600)
                    num_frames += sum(isinstance(event, DecodedFrame) for event in events)
                else:
                    num_frames += decode_alone(path, info.codec)
            times.append(time.process_time() - start_s)
    ratios = sorted(a / b for a, b in zip(spent["gate"], spent["alone"], strict=True))
    return {
        "bench": f"corruption/cost/{codec}",
        "num_frames": num_frames,
        "gate_s": round(min(spent["gate"]), 2),
        "alone_s": round(min(spent["alone"]), 2),
        "ratio": round(ratios[num_rounds // 2], 2),
    }


def decode_alone(path: Path, codec: str) -> int:
    """Decodes with the gate's decoder and one thread, and drops the frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if codec in STRICTER_DECODERS:
            context = av.CodecContext.create(STRICTER_DECODERS[codec], "r")
            context.extradata = stream.codec_context.extradata
        context.thread_count = 1
        return sum(len(context.decode(packet)) for packet in container.demux(stream))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--codec", default="")
    parser.add_argument("--only", default="", help="one decoder, e.g. lafp")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--first-only", action="store_true", help="without second decoders")
    args = parser.parse_args()
    if args.first_only:
        pyav.second_look = lambda *_: None
    chosen = {name: how for name, how in decoders().items() if name.startswith(args.only)}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for codec in [*ENCODERS, *REAL]:
            if not codec.startswith(args.codec):
                continue
            paths = coded_files(codec, scratch)
            if args.cost:
                print(json.dumps(cost(codec, paths)), flush=True)
                continue
            counts = measure(paths, (5, 20, 100), args.seeds, scratch, chosen, args.first_seed)
            for result in lines(codec, counts):
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
