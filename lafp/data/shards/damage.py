"""Defines the error for clips that storage has lost or changed since they were written."""

from typing import Literal

DamageReason = Literal["missing", "truncated", "checksum", "undecodable"]
REASONS: tuple[DamageReason, ...] = ("missing", "truncated", "checksum", "undecodable")


class DamagedClipError(RuntimeError):
    """Says that a clip cannot be read and a retry would not help. It names clip and shard."""

    def __init__(self, clip_id: str, shard: str, reason: DamageReason, detail: str) -> None:
        super().__init__(
            f"Clip {clip_id} in {shard} is damaged: {reason}, {detail}. Write the shard again."
        )
        self.reason = reason
