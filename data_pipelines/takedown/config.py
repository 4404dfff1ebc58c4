"""Defines the config of a takedown. The code that does it lies apart: it imports for seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TakedownConfig:
    """Says which video is taken down, and from where."""

    output: str
    """A run (<storage>/<run name>) or a study, with all shard sets and latents, or one shard
    set."""
    video_uri: str | None = None
    """The video's URI in the tables ``clips/`` and ``rejects.parquet``. A signature in it does not
    matter."""
    video_id: str | None = None
    """The hash of its content in the tables ``clips/``: a second way to name the video."""

    def __post_init__(self) -> None:
        if not self.video_uri and not self.video_id:
            raise ValueError(
                "neither video_uri nor video_id is set, so name the video: video_uri=URI or "
                "video_id=32_HEX_DIGITS."
            )
