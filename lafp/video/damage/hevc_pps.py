"""Finds out whether HEVC pictures store where their rows begin (wavefronts, x265's default)."""

from collections.abc import Iterator

from lafp.video.damage.bits import Bits

_PPS = 34


def has_wavefronts(hvcc: bytes) -> bool:
    """Reads ``entropy_coding_sync_enabled_flag`` (ITU-T H.265, 7.3.2.3.1).

    Args:
        hvcc: A decoder configuration record (ISO/IEC 14496-15, ``hvcC``).

    Returns:
        The flag; False if there is no record, as in transport streams.
    """
    try:
        flags = [_is_synchronized(Bits.of_unit(unit)) for unit in _units(hvcc, _PPS)]
    except (IndexError, ValueError):
        return False
    return bool(flags) and all(flags)


def is_hvcc(extradata: bytes) -> bool:
    """Says whether this is a decoder configuration record, as in MP4 and Matroska."""
    return len(extradata) >= 23 and extradata[0] == 1


def _units(hvcc: bytes, wanted: int) -> Iterator[bytes]:
    """Yields the NAL units of the wanted type."""
    if not is_hvcc(hvcc):
        return
    at = 23  # bytes before the arrays of parameter sets
    for _ in range(hvcc[22]):
        kind, num_units = hvcc[at] & 63, int.from_bytes(hvcc[at + 1 : at + 3], "big")
        at += 3
        for _ in range(num_units):
            size = int.from_bytes(hvcc[at : at + 2], "big")
            if kind == wanted:
                yield hvcc[at + 2 : at + 2 + size]
            at += 2 + size


def _is_synchronized(bits: Bits) -> bool:
    """Reads the flag in a picture parameter set."""
    bits.read(16)  # NAL unit header
    bits.read_ue()  # pps_pic_parameter_set_id
    bits.read_ue()  # pps_seq_parameter_set_id
    bits.read(7)  # up to cabac_init_present_flag
    bits.read_ue()  # num_ref_idx_l0_default_active_minus1
    bits.read_ue()  # num_ref_idx_l1_default_active_minus1
    bits.read_ue()  # init_qp_minus26
    bits.read(2)  # constrained_intra_pred_flag, transform_skip_enabled_flag
    if bits.read(1):  # cu_qp_delta_enabled_flag
        bits.read_ue()  # diff_cu_qp_delta_depth
    bits.read_ue()  # pps_cb_qp_offset
    bits.read_ue()  # pps_cr_qp_offset
    bits.read(5)  # up to tiles_enabled_flag
    return bool(bits.read(1))
