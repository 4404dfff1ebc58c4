"""Files of every kind, made here: they must come out upright, progressive, with their colours."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from PIL import Image

from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from lafp.video.hdr import PEAK_NITS, WHITE_NITS, pq_nits, pq_signal, to_sdr
from tests.lafp.video.test_decoders import decode
from tests.synthetic_video import moving_square, write_video

COLOUR = (200, 60, 30)
LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
MATRIX_CODES = {"bt601": 5, "bt709": 1, "bt2020": 9}


@pytest.fixture
def pyav():
    return PyAVDecoder(PyAVConfig())


def ycbcr(rgb, matrix: str, is_full: bool, bits: int = 8) -> list[int]:
    """BT.601/709/2020 in closed form; ``rgb`` in [0, 1]."""
    k_r, k_b = LUMA_WEIGHTS[matrix]
    r, g, b = rgb
    y = k_r * r + (1 - k_r - k_b) * g + k_b * b
    cb, cr = (b - y) / (2 - 2 * k_b), (r - y) / (2 - 2 * k_r)
    if is_full:
        return [round(255 * y), round(128 + 255 * cb), round(128 + 255 * cr)]
    scale = 2 ** (bits - 8)
    return [round(scale * v) for v in (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)]


def write_patches(path, patches, size=(64, 64), pixel_format="yuv420p", **tags):
    """One frame per (Y, Cb, Cr), with the given colour tags."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.options = {"crf": "4", "g": "1"}
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        dtype = np.uint16 if "10" in pixel_format else np.uint8
        for i, patch in enumerate(patches):
            frame = av.VideoFrame(*size, pixel_format)
            for plane, value in zip(frame.planes, patch, strict=True):
                samples = plane.buffer_size // np.dtype(dtype).itemsize
                plane.update(np.full(samples, value, dtype).tobytes())
            frame.pts = i
            for name, value in tags.items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
def test_matrix_and_range_are_those_that_the_file_names(pyav, tmp_path, matrix, is_full):
    patch = ycbcr(np.array(COLOUR) / 255, matrix, is_full)
    tags = {"colorspace": MATRIX_CODES[matrix], "color_range": 2 if is_full else 1}
    path = write_patches(tmp_path / "v.mp4", [patch] * 2, **tags)
    _, frames, _ = decode(pyav, path, 32, 32)
    np.testing.assert_allclose(frames[0].pixels()[8, 8], COLOUR, atol=3)


@pytest.mark.parametrize(("size", "matrix"), [((640, 480), "bt601"), ((1280, 720), "bt709")])
def test_files_that_name_no_matrix_follow_the_standard_of_their_size(pyav, tmp_path, size, matrix):
    patch = ycbcr(np.array(COLOUR) / 255, matrix, is_full=False)
    path = write_patches(tmp_path / "v.mp4", [patch] * 2, size)
    _, frames, _ = decode(pyav, path, 32, 32)
    np.testing.assert_allclose(frames[0].pixels()[8, 8], COLOUR, atol=3)


def test_pq_is_its_own_inverse_and_known_at_its_marks():
    nits = np.array([0.01, 1, 100, 203, 1000, 10_000])
    np.testing.assert_allclose(pq_nits(pq_signal(nits)), nits, rtol=1e-3)
    assert pq_signal(100.0) == pytest.approx(0.5081, abs=1e-4)  # BT.2408, table 1
    assert pq_signal(203.0) == pytest.approx(0.5807, abs=1e-4)


def test_tone_mapping_keeps_dark_tones_rolls_highlights_off_and_keeps_hues():
    nits = np.array([0, 1, 20, 60, WHITE_NITS, 500, PEAK_NITS, 4000])
    signal = np.rint(65_535 * pq_signal(nits)).astype(np.uint16)
    grey = to_sdr(np.repeat(signal[None, :, None], 3, axis=-1), "pq")[0]
    assert (grey == grey[:, :1]).all()
    expected = 255 * (nits[:4] / WHITE_NITS) ** (1 / 2.4)
    np.testing.assert_allclose(grey[:4, 0], expected, atol=2)
    assert (np.diff(grey[:7, 0].astype(int)) > 0).all(), "highlights differ"
    assert 215 <= grey[4, 0] < 245 and grey[6, 0] == grey[7, 0] == 255
    red, dim = (np.rint(65_535 * pq_signal(np.array(n))) for n in ([500, 50, 50], [50, 5, 5]))
    bright, dark = to_sdr(np.stack([red, dim])[None].astype(np.uint16), "pq")[0].astype(float)
    linear = [(rgb / 255) ** 2.4 for rgb in (bright, dark)]
    np.testing.assert_allclose(linear[0] / linear[0][0], linear[1] / linear[1][0], atol=0.03)


@pytest.mark.parametrize(("transfer", "code", "white"), [("pq", 16, 0.5807), ("hlg", 18, 0.75)])
def test_hdr_files_come_out_with_their_white_white_and_their_grey_grey(
    pyav, tmp_path, transfer, code, white
):
    patches = [ycbcr([v] * 3, "bt2020", False, bits=10) for v in (0, white / 2, white, 1)]
    tags = {"colorspace": 9, "color_range": 1, "color_trc": code, "color_primaries": 9}
    path = write_patches(tmp_path / "v.mp4", patches, pixel_format="yuv420p10le", **tags)
    _, frames, _ = decode(pyav, path, 32, 32)
    pixels = np.stack([frame.pixels()[8, 8] for frame in frames]).astype(int)
    assert np.ptp(pixels, axis=1).max() <= 2, "grey stays grey"
    levels = pixels.mean(axis=1)
    assert levels[0] <= 2 and levels[3] >= 253
    assert 215 <= levels[2] <= 245 and 20 <= levels[1] <= 130


def test_transparent_places_become_black(pyav, tmp_path):
    rgba = np.zeros((2, 32, 32, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, :, :16, 3], rgba[:, :, 16:, 3] = 255, 128
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgra"
        for picture in rgba:
            frame = av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="bgra")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _, frames, _ = decode(pyav, tmp_path / "v.mkv")
    assert frames[0].pixels()[4, 4].tolist() == [200, 0, 0]
    np.testing.assert_allclose(frames[0].pixels()[4, 28], [100, 0, 0], atol=1)


def write_alpha_webm(path, codec: str, alpha: np.ndarray, colour: np.ndarray, num_frames: int):
    """As browsers and editors do: transparency is a second stream beside each packet.

    PyAV does not write such packets, so that Matroska blocks are made here by hand.
    """
    height, width = alpha.shape
    packets = []
    grey = np.repeat(alpha[..., None], 3, axis=2)
    for picture in (colour, grey):
        encoder = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base, encoder.bit_rate = Fraction(1, 10), 4_000_000
        encoder.options = {"deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0"}
        found = []
        for i in range(num_frames):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            # Transparency has no range of its own: 0 is none, 255 is all.
            full = ColorRange.JPEG if picture is grey else ColorRange.MPEG
            frame = rgb.reformat(format="yuv420p", dst_color_range=full)
            frame.pts = i
            found += encoder.encode(frame)
        packets.append([bytes(packet) for packet in [*found, *encoder.encode()]])
    blocks = b"".join(
        element("A0", element("A1", b"\x81" + struct.pack(">hB", 100 * i, 0) + picture)
                + element("75A1", element("A6", element("EE", b"\1") + element("A5", beside)))
                + (b"" if i == 0 else element("FB", struct.pack(">b", -100))))
        for i, (picture, beside) in enumerate(zip(*packets, strict=True))
    )  # fmt: skip
    video = element("B0", bytes([width])) + element("BA", bytes([height])) + element("53C0", b"\1")
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1")
    track += element("55EE", b"\1") + element("86", f"V_{codec_id(codec)}".encode())
    header = element("42F7", b"\1") + element("42F2", b"\4") + element("42F3", b"\x08")
    header += element("4282", b"webm") + element("4287", b"\4") + element("4285", b"\2")
    path.write_bytes(
        element("1A45DFA3", header)
        + element(
            "18538067",
            element("1549A966", element("2AD7B1", (1_000_000).to_bytes(3, "big")))
            + element("1654AE6B", element("AE", track + element("E0", video)))
            + element("1F43B675", element("E7", b"\0") + blocks),
        )
    )
    return path


def codec_id(codec: str) -> str:
    return {"libvpx": "VP8", "libvpx-vp9": "VP9"}[codec]


def element(name: str, content: bytes) -> bytes:
    """Of EBML, its size in 8 bytes."""
    return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_beside_the_stream_becomes_black_without_fringes(pyav, tmp_path, codec):
    """Nobody sees that the transparent half is white, scaled down neither."""
    alpha = np.repeat(np.where(np.arange(96) < 48, 255, 0)[None], 96, axis=0).astype(np.uint8)
    colour = np.where(alpha[..., None] > 0, (90, 90, 90), (255, 255, 255)).astype(np.uint8)
    path = write_alpha_webm(tmp_path / "v.webm", codec, alpha, colour, 6)
    _, frames, spans = decode(pyav, path)
    assert spans == [] and len(frames) == 6
    pixels = frames[3].pixels().astype(int)
    assert np.abs(pixels[:, :44] - 90).max() < 12 and pixels[:, 52:].max() < 12
    _, scaled, _ = decode(pyav, path, width_px=20, height_px=20)  # the edge lies inside a pixel
    assert scaled[3].pixels().max() < 102, "no pixel is lighter than what is seen"


def test_half_transparent_places_are_half_as_light_in_8_and_in_16_bits(pyav, tmp_path):
    for pixel_format, dtype, full in (("rgba", np.uint8, 255), ("rgba64be", ">u2", 65535)):
        pictures = np.full((32, 32, 4), full, dtype)
        pictures[:, 16:, 3] = full // 2
        path = tmp_path / f"{pixel_format}.mov"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("png", rate=10)
            stream.width = stream.height = 32
            stream.pix_fmt = pixel_format
            frame = av.VideoFrame(32, 32, pixel_format)
            frame.planes[0].update(pictures.tobytes())
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        _, frames, _ = decode(pyav, path)
        pixels = frames[0].pixels()
        assert pixels[:, :16].min() == 255 and set(pixels[:, 16:].ravel()) <= {127, 128}


def test_gifs_keep_their_own_timing_and_their_holes_are_black(pyav, tmp_path):
    pictures = []
    for i in range(4):
        picture = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
        picture.paste((250, 200, 0, 255), (5 * i, 5, 5 * i + 10, 25))
        pictures.append(picture)
    path = tmp_path / "v.gif"
    durations_ms = [100, 300, 100, 200]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations_ms, disposal=2
    )
    info, frames, spans = decode(pyav, path)
    assert spans == []
    assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.4, 0.5])
    assert info.duration_s == pytest.approx(0.7, abs=0.05)
    for i, frame in enumerate(frames):
        pixels = frame.pixels()
        assert pixels[28, 35].tolist() == [0, 0, 0]
        np.testing.assert_allclose(pixels[15, 5 * i + 5], [250, 200, 0], atol=8)


def combing(picture: np.ndarray) -> float:
    """How much neighbouring rows differ beyond rows that are two apart."""
    rows = picture.astype(int).mean(axis=-1)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


def test_interlaced_video_comes_out_without_combs(pyav, tmp_path):
    picture = moving_square(1, height=96, width=128)[0]
    fields = np.stack([np.roll(picture, 6 * t, axis=1) for t in range(40)])
    woven = fields[::2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    options = {"crf": "6", "x264-params": "tff=1", "g": "12"}
    path = write_video(tmp_path / "v.mp4", woven, fps=25, options=options)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    _, frames, spans = decode(pyav, path)
    assert spans == [] and len(frames) == 20
    assert [f.time_s for f in frames] == pytest.approx([i / 25 for i in range(20)])
    for i in (5, 10, 15):
        pixels = frames[i].pixels()
        assert combing(woven[i]) > 3 * combing(fields[2 * i])
        assert combing(pixels) < 1.5 * combing(fields[2 * i]) + 1
        assert np.abs(pixels.astype(int) - fields[2 * i]).mean() < 8


def tag_matrix(path, matrix):
    """Writes a display matrix into the track header of an mp4."""
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "undo"),
    [
        ((-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), lambda x: x[:, ::-1]),
        ((65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30), lambda x: x[::-1]),
        ((0, 65536, 0, 65536, 0, 0, 0, 0, 1 << 30), lambda x: x.swapaxes(0, 1)),
        ((0, -65536, 0, -65536, 0, 0, 0, 0, 1 << 30), lambda x: x.swapaxes(0, 1)[::-1, ::-1]),
    ],
)
def test_mirrored_videos_come_out_as_players_show_them(pyav, tmp_path, matrix, undo):
    source = moving_square(3, height=64, width=96)
    path = write_video(tmp_path / "v.mp4", source)
    tag_matrix(path, matrix)
    info, frames, _ = decode(pyav, path)
    expected = undo(source[0])
    assert (info.height_px, info.width_px) == expected.shape[:2]
    assert np.abs(frames[0].pixels().astype(int) - expected).mean() < 6


def test_non_square_pixels_and_odd_sizes_are_not_distorted(pyav, tmp_path):
    picture = moving_square(1, 33, 47)[0]
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 47, 33, "yuv444p"
        stream.options = {"crf": "2", "x264-params": "sar=2/1"}
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv444p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info, frames, _ = decode(pyav, tmp_path / "v.mp4")
    assert (info.width_px, info.height_px) == (94, 33)
    assert np.abs(frames[0].pixels()[:, ::2].astype(int) - picture).mean() < 3
