"""Pictures of two decoders are compared without what pads their rows."""

import av
import numpy as np
import pytest

from lafp.video.damage.hevc_twins import have_equal_samples


def frame(picture: np.ndarray, pixel_format: str, padding: int) -> av.VideoFrame:
    made = av.VideoFrame(picture.shape[1], picture.shape[0], pixel_format)
    for plane in made.planes:
        rows = np.full((plane.height, plane.line_size), padding, np.uint8)
        num_bytes = plane.width * picture.dtype.itemsize
        values = np.ascontiguousarray(picture[: plane.height, : plane.width])
        rows[:, :num_bytes] = values.view(np.uint8).reshape(plane.height, num_bytes)
        plane.update(rows.tobytes())
    return made


@pytest.mark.parametrize("width", [2, 16, 64, 100])
@pytest.mark.parametrize(("pixel_format", "dtype"), [("yuv420p", "u1"), ("yuv420p10le", "<u2")])
def test_only_samples_are_compared_however_narrow_the_picture(width, pixel_format, dtype):
    picture = np.arange(32 * width, dtype=dtype).reshape(32, width)
    one = frame(picture, pixel_format, padding=0)
    assert have_equal_samples(one, frame(picture, pixel_format, padding=255))
    for at in ((0, 0), (31, width - 1)):
        changed = picture.copy()
        changed[at] ^= 1 << (8 * dtype.endswith("2"))  # the upper byte of larger samples
        assert not have_equal_samples(one, frame(changed, pixel_format, padding=0))
