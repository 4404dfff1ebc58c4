"""Seams between blocks tell torn pictures from sound ones that move, flash and have edges."""

import av
import cv2
import numpy as np
import pytest

from lafp.video.damage.mjpeg_scans import MjpegScans
from lafp.video.damage.seams import Seams
from lafp.video.damage.second_decoders import TornBlocks

HEIGHT, WIDTH = 128, 192


def scene(num_frames: int):
    """uint8 [H, W, 3] pictures of a camera that pans over texture, with edges along blocks."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.random((HEIGHT, WIDTH + 4 * num_frames, 3)), (0, 0), 3)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for i in range(num_frames):
        picture = wide[:, 3 * i : 3 * i + WIDTH].copy()
        picture[32:48, 64:] //= 2
        yield picture


def as_frame(picture: np.ndarray, pixel_format: str = "yuvj420p") -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)


def torn(picture: np.ndarray, levels: int) -> np.ndarray:
    """A picture whose blocks are darker from the middle of a row of blocks on."""
    changed = picture.astype(int)
    changed[80:96, 96:] -= levels
    return changed.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuvj444p", "gray"])
def test_torn_pictures_stand_out_and_the_next_ones_do_not(pixel_format):
    seams, found = Seams(2.25), set()
    places = set(range(10, 60, 7))
    for i, picture in enumerate(scene(60)):
        if seams.is_torn(as_frame(torn(picture, 40) if i in places else picture, pixel_format)):
            found.add(i)
    assert places <= found
    assert len(found - places) <= 0.15 * 60


def test_what_cannot_be_compared_is_not_judged():
    seams = Seams(2.25)
    pictures = list(scene(12))
    for picture in pictures:
        seams.is_torn(as_frame(picture))
    assert not seams.is_torn(as_frame(torn(pictures[0], 40)[:64]))  # another size
    assert not seams.is_torn(as_frame(np.zeros((8, 8, 3), np.uint8)))
    assert not seams.is_torn(as_frame(np.full((8, 8, 3), 255, np.uint8)))
    assert not seams.is_torn(av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le"))
    assert not seams.is_torn(as_frame(torn(pictures[0], 40)))


def test_seams_count_only_where_many_pictures_show_damage():
    pictures = list(scene(30))
    pictures[10], pictures[28] = torn(pictures[10], 40), torn(pictures[28], 40)

    def places_found(num_broken: int) -> set[int]:
        scans, found = MjpegScans(0), set()
        assert all(scans.packet_sign(av.Packet(b"\xff\xd8\xff\xd0")) for _ in range(num_broken))
        for i, picture in enumerate(pictures):
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            assert scans.packet_sign(av.Packet(jpeg)) == ""
            if scans.frame_sign(as_frame(picture)):
                found.add(i)
        return found

    assert not places_found(0) and not places_found(1)
    # Of 2 damaged pictures, until they are less than a tenth.
    assert 10 in (found := places_found(2)) and 28 not in found
    assert {10, 28} <= places_found(5)


def test_seams_of_mpeg_count_only_where_many_groups_show_damage():
    pictures = list(scene(30))
    pictures[20] = torn(pictures[20], 120)

    def places_found(share: float) -> set[int]:
        blocks = TornBlocks(lambda: share)
        frames = map(as_frame, pictures)
        return {i for i, frame in enumerate(frames) if blocks.frame_sign(frame)}

    assert places_found(0.0) == places_found(0.05) == set()
    assert places_found(0.2) == {20}
