"""Formats of episodes with actions beyond ``x.mp4`` and ``x.npz``: one file each.

A format is found by what the source holds; ``list_items`` runs on the driver, ``open`` on workers.
"""

from collections.abc import Iterator
from typing import Protocol

from data_pipelines.rows import VideoItem
from data_pipelines.sources.hdf5 import Hdf5
from data_pipelines.sources.lerobot_info import INFO
from data_pipelines.sources.lerobot_other import LeRobotOther
from data_pipelines.sources.lerobot_v2 import LeRobotV2
from data_pipelines.sources.lerobot_v3 import LeRobotV3
from data_pipelines.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.sources.rlds import Rlds
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split


class LabeledSource(Protocol):
    """What a format does."""

    def is_at(self, source: str) -> bool:
        """Whether the source, a URI, holds this format."""
        ...

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Lists the inputs, in a stable order; URIs differ.

        Raises:
            ConfigError: The source as a whole cannot be used.
        """
        ...

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Opens the videos in one listed input. Each is gone through before the next is asked for.

        Raises:
            VideoError: It cannot be used (further). It becomes a reject row.
            FileNotFoundError: The same.
            StorageError: S3 did not answer; the job can be resumed.
        """
        ...


LABELED_SOURCES: dict[str, LabeledSource] = {
    "lerobot_v2": LeRobotV2(),
    "lerobot_v3": LeRobotV3(),
    "lerobot_other": LeRobotOther(),
    "rlds": Rlds(),
    "hdf5": Hdf5(),
}


# A parent folder of datasets: the/parent/dataset or the/parent/user/dataset.
_MAX_DEPTH, _MAX_FOLDERS = 2, 1000


def find_labeled_sources(source: str) -> list[tuple[LabeledSource, str]]:
    """The formats that the source holds, and where. Empty if it is videos and ``.npz`` files.

    LeRobot datasets are folders, so a source may hold several of them, one or two levels down.

    Raises:
        ConfigError: It holds LeRobot datasets and files of another format.
    """
    here = [(found, source) for found in LABELED_SOURCES.values() if found.is_at(source)]
    lerobot = [LABELED_SOURCES[f"lerobot_{name}"] for name in ("v2", "v3", "other")]
    if here and here[0][0] in lerobot:
        return here[:1]
    below = [
        (found, folder) for folder in _folders(source) for found in lerobot if found.is_at(folder)
    ]
    if here and below:
        raise ConfigError(
            f"{source} holds LeRobot datasets ({below[0][1]} ...) and other formats. Name one of "
            "them as the source."
        )
    return below or here[:1]


def _folders(source: str) -> Iterator[str]:
    """Folders below a source that may be datasets, those of a dataset left out."""
    level, num_seen = [source], 0
    for _ in range(_MAX_DEPTH):
        below = [storage.join(uri, name) for uri in level for name in storage.list_folders(uri)]
        num_seen += len(below)
        if num_seen > _MAX_FOLDERS:  # a corpus of videos, not of datasets
            return
        yield from below
        level = [uri for uri in below if not storage.is_file(storage.join(uri, INFO))]
