"""Changes H.264 parameter sets so that they claim more rows of macroblocks per picture.

Clause numbers are those of ITU-T H.264.
"""

_SPS = 7
# Profiles whose parameter sets hold the chroma format (7.3.2.1.1).
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class _Bits:
    """Reads bits, those of the highest value first. Beyond the end there are none."""

    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    @classmethod
    def of_unit(cls, unit: bytes) -> "_Bits":
        """Reads a NAL unit of H.264 without its emulation prevention."""
        return cls(unit.replace(b"\0\0\3", b"\0\0"))

    def read(self, num_bits: int) -> int:
        self.at += num_bits
        return int("0" + self.text[self.at - num_bits : self.at], 2)

    def read_ue(self) -> int:
        """Reads an Exponential Golomb code (9.1). A signed code has the same length."""
        num_zeros = self.text.index("1", self.at) - self.at
        self.at += num_zeros
        return self.read(num_zeros + 1) - 1


def is_sps(first_byte: int) -> bool:
    """Says whether a NAL unit with this first byte is a sequence parameter set."""
    return first_byte & 31 == _SPS


def with_higher_pictures(avcc: bytes, num_macroblocks: int) -> tuple[bytes, int]:
    """Changes all sequence parameter sets of a decoder configuration (ISO/IEC 14496-15, ``avcC``).

    Args:
        avcc: The box.
        num_macroblocks: Least number of macroblocks by which pictures grow.

    Returns:
        The changed box, and the number of added rows.

    Raises:
        ValueError, IndexError: The bytes are not such a box, or the video is interlaced.
    """
    if len(avcc) < 7 or avcc[0] != 1:
        raise ValueError("no avcC box")
    made, at, num_rows = bytearray(avcc[:6]), 6, 0
    for _ in range(avcc[5] & 31):
        end = at + 2 + int.from_bytes(avcc[at : at + 2], "big")
        sps = avcc[at + 2 : end]
        # All sets grow by the same number of rows, because the decoder is told one number.
        num_rows = num_rows or -(-num_macroblocks // _width_mbs(sps))
        sps = _with_higher_picture(sps, num_rows)
        if len(sps) >= 1 << 16:
            raise ValueError("a parameter set that is too long for its length field")
        made += len(sps).to_bytes(2, "big") + sps
        at = end
    return bytes(made) + avcc[at:], num_rows


def _width_mbs(sps: bytes) -> int:
    bits = _Bits.of_unit(sps)
    _skip_to_size(bits)
    return bits.read_ue() + 1


def _with_higher_picture(sps: bytes, num_rows: int) -> bytes:
    """Returns the parameter set with ``num_rows`` more rows of macroblocks."""
    bits = _Bits.of_unit(sps)
    _skip_to_size(bits)
    bits.read_ue()  # width
    before = bits.at
    height = bits.read_ue()
    after = bits.at
    if not bits.read(1):
        raise ValueError("interlaced video: its rows of macroblocks come in pairs")
    text = bits.text[:before] + _ue(height + num_rows) + bits.text[after:].rstrip("0")
    text += "0" * (-len(text) % 8)  # the last 1 ends the data, zeros fill the byte
    return _escaped(int(text, 2).to_bytes(len(text) // 8, "big"))


def _skip_to_size(bits: _Bits) -> None:
    """Skips the fields before ``pic_width_in_mbs_minus1`` (7.3.2.1.1)."""
    bits.read(8)  # NAL unit header
    profile = bits.read(8)
    bits.read(16)  # constraint flags, level_idc
    bits.read_ue()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        chroma_format = bits.read_ue()
        bits.read(int(chroma_format == 3))  # separate_colour_plane_flag
        bits.read_ue()  # bit_depth_luma_minus8
        bits.read_ue()  # bit_depth_chroma_minus8
        bits.read(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.read(1):  # seq_scaling_matrix_present_flag
            for i in range(12 if chroma_format == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    bits.read_ue()  # log2_max_frame_num_minus4
    order_count_type = bits.read_ue()
    if order_count_type == 0:
        bits.read_ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif order_count_type == 1:
        bits.read(1)  # delta_pic_order_always_zero_flag
        bits.read_ue()  # offset_for_non_ref_pic
        bits.read_ue()  # offset_for_top_to_bottom_field
        for _ in range(bits.read_ue()):
            bits.read_ue()  # offset_for_ref_frame
    bits.read_ue()  # max_num_ref_frames
    bits.read(1)  # gaps_in_frame_num_value_allowed_flag


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """Skips a scaling list (7.3.2.1.1.1)."""
    last = scale = 8
    for _ in range(size):
        if scale:
            code = bits.read_ue()
            scale = (last + ((code + 1) // 2 if code % 2 else -code // 2)) % 256
        last = scale or last


def _ue(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _escaped(data: bytes) -> bytes:
    """Inserts the bytes of emulation prevention."""
    made = bytearray()
    for byte in data:
        # Two zero bytes followed by 0 to 3 would look like a start code (7.4.1), so a 3 goes
        # between.
        if made[-2:] == b"\0\0" and byte <= 3:
            made.append(3)
        made.append(byte)
    return bytes(made)
