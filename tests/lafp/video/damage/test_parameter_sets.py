"""Parameter sets that no encoder writes."""

import pytest

from lafp.video.damage.h264_sps import with_higher_pictures


def test_a_parameter_set_that_grows_beyond_its_length_field_is_refused():
    # Width 1 and height 1 in macroblocks, one bit before the height, and 65,535 bytes in all.
    codes = "1" + "1" + "1" + "1" + "1" + "0" + "1" + "1" + "1"
    bits = (codes + "01" * (8 * 65_531))[: 8 * 65_531]
    sps = bytes((0x67, 66, 0, 30)) + int(bits, 2).to_bytes(65_531, "big")
    avcc = bytes((1, 66, 0, 30, 0xFF, 0xE1)) + len(sps).to_bytes(2, "big") + sps
    with pytest.raises(ValueError, match="too long for its length field"):
        with_higher_pictures(avcc, 1500)
