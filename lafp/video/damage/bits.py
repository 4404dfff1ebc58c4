"""Reads the bits of H.264 and HEVC parameter sets."""


class Bits:
    """Reads bits of a NAL unit, from which emulation prevention is removed."""

    def __init__(self, unit: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
        self.at = 0

    def read(self, num_bits: int) -> int:
        self.at += num_bits
        return int("0" + self.text[self.at - num_bits : self.at], 2)

    def read_ue(self) -> int:
        """Reads an Exponential Golomb code (9.1). A signed code has the same length."""
        num_zeros = self.text.index("1", self.at) - self.at
        self.at += num_zeros
        return self.read(num_zeros + 1) - 1
