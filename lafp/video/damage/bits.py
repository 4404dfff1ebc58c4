"""Reads the bits of headers."""


class Bits:
    """Reads bits, those of the highest value first. Beyond the end there are none."""

    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    @classmethod
    def of_unit(cls, unit: bytes) -> "Bits":
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
