"""What a shard's clips could be: bytes, quality, and what it costs to get a training window back.

python -m tests.benchmarks.bench_shard_codec [--sizes 64 128] [--folder DIR]    # JSON lines

Real videos, clips of 10 s at 10 frames/s. A window is a frame pair, up to 10 steps apart. It costs
a share of one pass over its clip, where the reader takes several windows from each clip it decodes
(``lafp.data`` does, 4 by default), or else one seek to the key frame before it.
`ratio`: CPU seconds per window of the default, in one pass, against this choice (above 1: cheaper).
"""

import argparse
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.decoders.base import DecodedFrame
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.benchmarks.bench_preprocess import FILES

os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 talks
FPS, CLIP_FRAMES, WINDOWS_PER_CLIP, MAX_STEPS = 10.0, 100, 4, 10
NUM_RUNS = 3
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class Choice:
    """One way to store a clip."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]
    """All frames."""
    window: Callable[[bytes, int, int], np.ndarray]
    """Frames t and t + k."""


def h264(**options: Any) -> Choice:
    cfg = EncodeConfig(**options)
    name = f"h264 gop{cfg.gop_frames} crf{cfg.crf} {cfg.preset}"
    name += " yuv444p" if cfg.pixel_format == "yuv444p" else ""
    return Choice(name, partial(encode_clip, fps=FPS, cfg=cfg), decode_clip, seek_window)


def other_codec(name: str, codec: str, **options: str) -> Choice:
    return Choice(
        name, partial(encode_with, codec=codec, options=options), decode_clip, seek_window
    )


def encode_with(frames: np.ndarray, codec: str, options: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", options
        stream.codec_context.thread_count = 1
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


def seek_window(data: bytes, t: int, k: int) -> np.ndarray:
    found, to_rgb = [], VideoReformatter()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(round(t / FPS / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.time * FPS)
            if number in (t, t + k):
                rgb = to_rgb.reformat(frame, format="rgb24", interpolation=EXACT, threads=1)
                found.append(rgb.to_ndarray())
            if number >= t + k:
                break
    return np.stack(found)


def jpeg(quality: int) -> Choice:
    """One JPEG per frame, side by side behind an index."""

    def encode(frames: np.ndarray) -> bytes:
        images = []
        for pixels in frames:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
            images.append(buffer.getvalue())
        ends = np.cumsum([len(image) for image in images]).astype("<u4")
        return len(frames).to_bytes(4, "little") + ends.tobytes() + b"".join(images)

    def images(data: bytes, numbers: Any) -> np.ndarray:
        count = int.from_bytes(data[:4], "little")
        bounds = [0, *np.frombuffer(data, "<u4", count, 4).tolist()]
        body = 4 + 4 * count
        return np.stack(
            [
                np.asarray(Image.open(io.BytesIO(data[body + bounds[i] : body + bounds[i + 1]])))
                for i in numbers
            ]
        )

    def decode(data: bytes) -> np.ndarray:
        return images(data, range(int.from_bytes(data[:4], "little")))

    return Choice(f"jpeg q{quality}", encode, decode, lambda data, t, k: images(data, (t, t + k)))


CHOICES = [
    h264(),
    h264(gop_frames=1),
    h264(gop_frames=6),
    h264(gop_frames=30),
    h264(gop_frames=CLIP_FRAMES),
    h264(crf=23),
    h264(crf=12),
    h264(preset="ultrafast"),
    h264(preset="medium"),
    h264(pixel_format="yuv444p"),
    jpeg(95),
    jpeg(85),
    other_codec("hevc gop12 crf20", "libx265", crf="20", preset="fast",
                **{"x265-params": "keyint=12:bframes=0:log-level=none:pools=none:frame-threads=1"}),
    other_codec("vp9 gop12 crf24", "libvpx-vp9", crf="24", g="12", deadline="good",
                **{"b": "0", "cpu-used": "4"}),
    other_codec("av1 gop12 crf24", "libsvtav1", crf="24", g="12", preset="8",
                **{"svtav1-params": "lp=1"}),
]  # fmt: skip


def clips(folder: Path, side_px: int) -> Iterator[np.ndarray]:
    """One clip of each video."""
    decoder = PyAVDecoder(PyAVConfig())
    for name in FILES:
        deadline = time.monotonic() + 600
        info = decoder.probe(str(folder / name), 2**24, deadline)
        scale = side_px / min(info.width_px, info.height_px)
        width, height = (max(side_px, round(scale * s)) for s in (info.width_px, info.height_px))
        frames: list[np.ndarray] = []
        for event in decoder.frames(str(folder / name), info, width, height, deadline):
            if isinstance(event, DecodedFrame) and event.time_s >= len(frames) / FPS - 1e-3:
                top, left = (height - side_px) // 2, (width - side_px) // 2
                frames.append(event.pixels()[top : top + side_px, left : left + side_px])
            if len(frames) == CLIP_FRAMES:
                break
        if len(frames) > 2 * MAX_STEPS:
            yield np.stack(frames)


def cpu_s(function: Callable[[], Any]) -> float:
    start_s = time.process_time()
    function()
    return time.process_time() - start_s


def measure(choice: Choice, sources: list[np.ndarray]) -> dict[str, Any]:
    rng = random.Random(0)
    encode_s = encoded_bytes = pass_s = seek_s = squares = 0.0
    for frames in sources:
        start_s = time.process_time()
        data = choice.encode(frames)
        encode_s += time.process_time() - start_s
        encoded_bytes += len(data)
        decoded = choice.decode(data)
        assert decoded.shape == frames.shape, (choice.name, decoded.shape, frames.shape)
        squares += float(np.mean((decoded.astype(np.float32) - frames) ** 2))
        for _ in range(WINDOWS_PER_CLIP):
            k = rng.randint(1, MAX_STEPS)
            t = rng.randrange(len(frames) - k)
            pair = choice.window(data, t, k)
            assert np.abs(pair.astype(int) - decoded[[t, t + k]]).mean() < 2, choice.name
            runs = [cpu_s(partial(choice.window, data, t, k)) for _ in range(NUM_RUNS)]
            seek_s += min(runs) / WINDOWS_PER_CLIP
        pass_s += min(cpu_s(partial(choice.decode, data)) for _ in range(NUM_RUNS))
    num_frames = sum(map(len, sources))
    return {
        "bytes_per_frame": round(encoded_bytes / num_frames),
        "psnr_db": round(10 * np.log10(255**2 / (squares / len(sources))), 1),
        "ms_per_window_in_one_pass": round(1000 * pass_s / len(sources) / WINDOWS_PER_CLIP, 2),
        "ms_per_window_by_a_seek": round(1000 * seek_s / len(sources), 2),
        "encode_ms_per_frame": round(1000 * encode_s / num_frames, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    args = parser.parse_args()
    for side_px in args.sizes:
        sources = list(clips(args.folder, side_px))
        default_ms = 0.0
        for choice in CHOICES:
            found = measure(choice, sources)
            default_ms = default_ms or found["ms_per_window_in_one_pass"]
            ratio = round(default_ms / found["ms_per_window_in_one_pass"], 3)
            bench = f"shard_codec/{side_px}px {choice.name}"
            print(json.dumps({"bench": bench, "ratio": ratio, **found}), flush=True)


if __name__ == "__main__":
    main()
