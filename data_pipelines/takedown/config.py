"""The config of a takedown, apart from what does it, which imports for seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TakedownConfig:
    """Which video goes, and from where."""

    output: str
    """A run (<storage>/<run name>): all of its shard sets and latents. Or one shard set."""
    video_uri: str | None = None
    """As in ``clips.parquet`` and ``rejects.parquet``."""
    video_id: str | None = None
    """The same, by the hash of its content."""

    def __post_init__(self) -> None:
        if not self.video_uri and not self.video_id:
            raise ValueError("name the video: video_uri=URI or video_id=32_HEX_DIGITS.")
