"""Other ways to turn videos into clips of 64 x 64 pixels at 10 frames/s, for ``bench_preprocess``.

Each writes its clips as ``<stem>@<first tick>.mp4``; at tick k stands the frame on display at
k / 10 s.
"""

import math
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
import ray
from av.video.reformatter import VideoReformatter

from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.clip.resize import ResizeConfig, crop_or_pad, scaled_size
from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.convert import SCALING
from lafp.video.decoders.base import VideoInfo
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

FPS = 10.0
CLIP_FRAMES = 100
ENCODE = EncodeConfig()
RESIZE = ResizeConfig(width_px=64, height_px=64)


def probe(path: Path) -> VideoInfo:
    return PyAVDecoder(PyAVConfig()).probe(str(path), 2**24, time.monotonic() + 60)


def ticks_of(index: int, info: VideoInfo) -> range:
    """The ticks at which frame ``index`` is on display."""
    jitter_s = JITTER * min(1 / info.fps, 1 / FPS)
    end_s = info.times_s[index + 1] if index + 1 < len(info.times_s) else info.duration_s
    first, end = (math.ceil((s - jitter_s) * FPS) for s in (info.times_s[index], end_s))
    return range(max(0, first), end)


def num_ticks(path: Path) -> int:
    info = probe(path)
    return ticks_of(len(info.times_s) - 1, info).stop


def write(out: Path, stem: str, first_tick: int, clip: list[np.ndarray]) -> None:
    data = encode_clip(np.stack(clip), FPS, ENCODE)
    (out / f"{stem}@{first_tick}.mp4").write_bytes(data)


def bare_pyav(paths: list[Path], out: Path, pool: Executor) -> None:
    """Decode, scale, encode in one process per core."""
    list(pool.map(partial(bare_pyav_file, out=out), paths))


def bare_pyav_file(path: Path, out: Path) -> None:
    info = probe(path)
    size, to_rgb, clip = scaled_size(info, RESIZE), VideoReformatter(), []
    tick = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            for _ in ticks_of(index, info):
                rgb = to_rgb.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
                clip.append(crop_or_pad(rgb.to_ndarray(), RESIZE))
                tick += 1
                if len(clip) == CLIP_FRAMES:
                    write(out, path.stem, tick - len(clip), clip)
                    clip = []
    if clip:
        write(out, path.stem, tick - len(clip), clip)


def ffmpeg(paths: list[Path], out: Path, num_cores: int) -> None:
    """One command per file, one thread each, as many at a time as there are cores."""
    with ThreadPoolExecutor(num_cores) as pool:
        list(pool.map(partial(ffmpeg_file, out=out), paths))


def ffmpeg_file(path: Path, out: Path) -> None:
    width, height = scaled_size(probe(path), RESIZE)
    scale = f"scale={width}:{height}:flags=area,crop=64:64:exact=1"
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-filter_threads", "1"]
    command += ["-i", str(path), "-an", "-vf", f"setpts=PTS-STARTPTS,fps={FPS:g}:round=up,{scale}"]
    command += ["-c:v", "libx264", "-threads", "1", "-crf", str(ENCODE.crf)]
    command += ["-preset", ENCODE.preset, "-g", str(ENCODE.gop_frames), "-bf", "0"]
    command += ["-pix_fmt", ENCODE.pixel_format, str(out / f"{path.stem}@0.mp4")]
    subprocess.run(command, check=True)


def ray_read_videos(paths: list[Path], out: Path) -> None:
    """``ray.data.read_videos``, the same frames, scaling and encoder; clips of 100 frames."""
    infos = {str(path): probe(path) for path in paths}
    frames = ray.data.read_videos([str(path) for path in paths], include_paths=True)
    small = frames.map_batches(partial(shrink_batch, infos=infos), batch_size=None)
    written = small.map_batches(partial(encode_batch, out=out), batch_size=CLIP_FRAMES)
    for _ in written.iter_batches(batch_size=None):
        pass


def shrink_batch(batch: dict[str, Any], infos: dict[str, VideoInfo]) -> dict[str, np.ndarray]:
    to_rgb = VideoReformatter()
    rows: dict[str, list[Any]] = {"path": [], "tick": [], "frame": []}
    for pixels, index, path in zip(
        batch["frame"], batch["frame_index"], batch["path"], strict=True
    ):
        for tick in ticks_of(int(index), infos[path]):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            size = scaled_size(infos[path], RESIZE)
            rgb = to_rgb.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
            rows["path"].append(path)
            rows["tick"].append(tick)
            rows["frame"].append(crop_or_pad(rgb.to_ndarray(), RESIZE))
    frames = np.array(rows["frame"], np.uint8).reshape(-1, 64, 64, 3)
    return {"path": np.array(rows["path"], str), "tick": np.array(rows["tick"]), "frame": frames}


def encode_batch(batch: dict[str, Any], out: Path) -> dict[str, np.ndarray]:
    rows = sorted(
        zip(batch["path"], batch["tick"].tolist(), batch["frame"], strict=True),
        key=lambda row: row[:2],
    )
    # Frames of one video that follow each other: path and (tick - place) are the same.
    runs = groupby(enumerate(rows), lambda found: (found[1][0], found[1][1] - found[0]))
    for (path, _), run in runs:
        clip = [row for _, row in run]
        write(out, Path(path).stem, clip[0][1], [frame for _, _, frame in clip])
    return {"num_frames": np.array([len(rows)])}


def written_frames(out: Path) -> dict[str, dict[int, np.ndarray]]:
    """Frames by stem and tick."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for path in out.glob("*.mp4"):
        stem, first = path.stem.rsplit("@", 1)
        frames = decode_clip(path.read_bytes())
        found.setdefault(stem, {}).update(enumerate(frames, int(first)))
    return found


def differences(
    frames: dict[str, dict[int, np.ndarray]], others: dict[str, dict[int, np.ndarray]]
) -> Iterator[float]:
    """Mean absolute difference, in levels of 255, of each of ``frames`` to the other's."""
    for stem, ticks in frames.items():
        for tick, pixels in ticks.items():
            other = others[stem].get(tick)
            if other is None:
                yield math.inf
            else:
                yield float(np.abs(pixels.astype(np.int16) - other).mean())
