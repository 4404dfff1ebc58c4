"""What a worker and the process that decodes for it hold in memory, however long the video is."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from data_pipelines.preprocess.clip.filters.shots import ShotsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.shards import write_part
from lafp.http.host_gate import HostGate

HEIGHT, WIDTH, FPS, GOP_FRAMES = 1080, 1920, 25, 250
HOUR_S = 3600
# As configs/preprocess/videos.yaml has it.
CFG = PreprocessConfig(
    clip=ClipConfig(max_frozen_s=2.0, shots=ShotsConfig(name="adaptive")),
    filters=FiltersConfig(min_motion=0.0003, min_brightness=0.03, drop_duplicates=True),
)


def encoded_gop(path: Path) -> Path:
    """One group of pictures of 10 s with B-frames: bars that move over a slope."""
    columns = np.arange(WIDTH)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "30", "g": str(GOP_FRAMES), "bf": "2"}
        for t in range(GOP_FRAMES):
            luma = 40 + 100 * columns // WIDTH + 60 * ((columns + 4 * t) // 96 % 2)
            picture = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            picture[:HEIGHT] = luma
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return path


def repeated(gop: Path, path: Path, duration_s: float) -> Path:
    """The same packets over and over, copied, not encoded again."""
    with av.open(str(gop)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        step = round(Fraction(1, FPS) / packets[0].time_base) * GOP_FRAMES
        stamps = [(packet.pts, packet.dts, packet.time_base) for packet in packets]
        for number in range(round(duration_s * FPS / GOP_FRAMES)):
            for packet, (pts, dts, time_base) in zip(packets, stamps, strict=True):
                packet.stream, packet.time_base = copy, time_base
                packet.pts, packet.dts = pts + number * step, dts + number * step
                target.mux(packet)
    return path


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_hour_of_1080p_stays_under_a_gigabyte(tmp_path):
    path = repeated(encoded_gop(tmp_path / "gop.mp4"), tmp_path / "hour.mp4", HOUR_S)
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    before_bytes = psutil.Process().memory_info().rss
    with Sandbox(CFG, HostGate()) as sandbox:
        # All pieces one after the other: a task that goes through one of them holds no more.
        (rows,) = write_part([sandbox.rows(item)], str(tmp_path), "part.tar")
        (process,) = [
            child
            for child in psutil.Process().children()
            if "data_pipelines.preprocess.sandbox.process" in child.cmdline()
        ]
        sandbox_bytes = peak_bytes(process.pid)
    worker_bytes = psutil.Process().memory_info().rss - before_bytes
    check_accounts(rows)
    assert rows.videos[0].duration_s == pytest.approx(HOUR_S, abs=0.1)
    clip_s = sum(clip.record.end_s - clip.record.start_s for clip in rows.clips)
    assert clip_s == pytest.approx(HOUR_S, rel=0.01), rows.rejects[:3]
    print(f"sandbox {sandbox_bytes / 2**20:.0f} MiB, worker {worker_bytes / 2**20:.0f} MiB")
    assert sandbox_bytes + worker_bytes < 2**30, (sandbox_bytes, worker_bytes)
