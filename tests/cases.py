"""Runs one source through listing, opening, decoding and selection in this process, and keeps all
that was said of it, for tests of odd inputs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.manifest import check_accounts, shard_set
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip
from data_pipelines.preprocess.shards import read_part, write_part
from lafp.config import ConfigError
from lafp.http.download import HttpConfig
from lafp.video import VIDEO_DECODERS, EncodeConfig, decode_clip
from tests.selecting import rejects_of, select_items

CFG = PreprocessConfig(
    clip=ClipConfig(fps=None, max_s=60.0, min_frames=4),
    resize=ResizeConfig(width_px=64, height_px=64),
    encode=EncodeConfig(crf=4),
    filters=FiltersConfig(min_motion=0.0),
    http=HttpConfig(
        requests_per_s_per_host=500.0, retries=0, timeout_s=5.0, allow_private_addresses=True
    ),
    val_fraction=0.0,
)
_NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip, with the numbers that its pictures show."""

    uri: str
    start_s: float
    fps: float
    numbers: list[int]
    frames: np.ndarray = field(repr=False)
    """uint8 [T, H, W, 3]."""
    action: np.ndarray | None = field(repr=False)
    """[T, A]."""

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rpartition("/")[2]


@dataclass(kw_only=True)
class Outcome:
    """What came of a source."""

    clips: list[Clip] = field(default_factory=list)
    """Of every video, repeated ones too."""
    rejects: list[RejectRow] = field(default_factory=list)
    """Those of repeated files too."""
    seconds: float = 0.0
    """Of all videos together, as their accounts have it."""
    error: str = ""
    """Message of the ConfigError that stopped the source, if one did."""

    @property
    def names(self) -> list[str]:
        """Names of the videos with clips, sorted."""
        return sorted({clip.name for clip in self.clips})

    @property
    def reasons(self) -> dict[str, str]:
        """Name of the rejected -> reason, where each has one reject."""
        return {row.video_uri.rpartition("/")[2]: row.reason for row in self.rejects}

    @property
    def said(self) -> str:
        """Every word that a user gets to read about what is not used."""
        rows = [f"{row.video_uri}: {row.reason}: {row.detail}" for row in self.rejects]
        return "\n".join([*rows, self.error])

    def numbers_of(self, name: str) -> list[int]:
        """All numbers that the clips of one video show, in order."""
        clips = sorted((c for c in self.clips if c.name == name), key=lambda clip: clip.start_s)
        return [number for clip in clips for number in clip.numbers]


def number_of(picture: np.ndarray) -> int:
    """The number in a picture of the cases: 12 bits as 3 rows of 4 cells above a moving bar."""
    height, width = picture.shape[0] // 4, picture.shape[1] // 4
    cells = picture.mean(axis=-1)[: 3 * height].reshape(3, height, 4, width)
    bits = cells[:, 2:-2, :, 2:-2].mean(axis=(1, 3)).ravel() > 128
    return int(bits @ (1 << np.arange(12)))


def outcome(cfg: PreprocessConfig, folder: Path) -> Outcome:
    """What `preprocess` without Ray comes to, a ConfigError included.

    Args:
        cfg: Its config, with a source.
        folder: An empty folder to work in.
    """
    found = Outcome()
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    part = "000000/part-000000.tar"
    try:
        rows = [list(video_to_clips(item, cfg, decoder)) for item in list_inputs(cfg)]
        found.clips = [_clip(row) for item in rows for row in item if isinstance(row, EncodedClip)]
        write_part(rows, str(folder), part)
        items = read_part(str(folder), part.removesuffix(".tar"))
        for item in items:
            check_accounts(item)
        found.seconds = sum(video.duration_s for item in items for video in item.videos)
        selected = select_items(cfg, items, folder)
        found.rejects = rejects_of(selected)
        shard_set(selected, cfg)
    except ConfigError as error:
        found.error = str(error)
    return found


def _clip(row: EncodedClip) -> Clip:
    frames = decode_clip(row.video)
    return Clip(
        uri=row.record.video_uri,
        start_s=row.record.start_s,
        fps=row.record.fps,
        numbers=[number_of(frame) for frame in frames],
        frames=frames,
        action=row.labels.true_action if row.labels else None,
    )


@contextmanager
def another_user(folder: Path) -> Iterator[None]:
    """Root may read everything; the block is somebody else, who may look into ``folder``."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
