"""Containers whose streams change while they are read."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from lafp.video.decoders.open_video import open_video
from lafp.video.decoders.packets import read_packets
from tests.lafp.video.test_decoders import soon


def transport_stream(path: Path, codecs: tuple[str, ...], num_frames: int) -> bytes:
    """A file of noise, which is large for its number of frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format="mpegts") as file:
        streams: list[Any] = [file.add_stream(codec, rate=25) for codec in codecs]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(num_frames):
            pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            for stream in streams:
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode())
    return path.read_bytes()


def test_a_stream_that_appears_amid_a_file_costs_nothing(tmp_path):
    # FFmpeg looks at the beginning and the end of a file for its streams.
    ends = transport_stream(tmp_path / "a.ts", ("libx264",), 3000)
    amid = transport_stream(tmp_path / "b.ts", ("libx264", "mpeg2video"), 30)
    path = tmp_path / "c.ts"
    path.write_bytes(ends + amid + ends)
    with open_video(str(path), soon()) as (container, stream):
        assert len(container.streams) == 1
        packets = [packet for packet, _ in read_packets(container, stream, soon())]
        assert len(container.streams) == 1 and not packets[-1].size, "what waits is flushed"
    assert sum(packet.size > 0 for packet in packets) == 6030
