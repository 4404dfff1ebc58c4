"""Clips that are not what their shard's entry says: storage lost or changed them since."""

from typing import Literal

DamageReason = Literal["missing", "truncated", "checksum", "undecodable"]
REASONS: tuple[DamageReason, ...] = ("missing", "truncated", "checksum", "undecodable")


class DamagedClipError(RuntimeError):
    """A clip cannot be read, and trying again would not help. The message names clip and shard."""

    def __init__(self, clip_id: str, shard: str, reason: DamageReason, detail: str) -> None:
        super().__init__(
            f"Clip {clip_id} in {shard} is damaged: {reason}, {detail}. Write the shard again."
        )
        self.reason = reason
