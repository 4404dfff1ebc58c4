"""Reads LeRobot datasets: finds out the version, which has a reader of its own for the rest."""

from collections.abc import Iterator

from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot.info import has_info, read_info
from data_pipelines.preprocess.sources.lerobot.v2 import LeRobotV2
from data_pipelines.preprocess.sources.lerobot.v3 import LeRobotV3
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split

_VERSIONS: dict[str, LeRobotV2 | LeRobotV3] = {"v2": LeRobotV2(), "v3": LeRobotV3()}
# Datasets may lie below a source as source/dataset or source/user/dataset.
_MAX_DEPTH, _MAX_FOLDERS = 2, 1000


class LeRobot:
    """Reads LeRobot v2.0, v2.1 and v3.0."""

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """See ``LabeledSource``. A dataset of another version raises ConfigError."""
        info = read_info(source)
        if info.major not in _VERSIONS:
            raise ConfigError(
                f"{source} is a LeRobot dataset {info.version}; supported are v2.0, v2.1 and v3.0. "
                "Convert it with LeRobot's conversion scripts, or leave `labels` out and use its "
                "videos alone."
            )
        yield from info.depth_items(split)
        yield from _VERSIONS[info.major].list_items(info, split)

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """See ``LabeledSource``."""
        return _VERSIONS[item.details["version"]].open(item, using)


def find_datasets(source: str) -> list[str]:
    """Finds the folders of the datasets at a source, or one or two levels below it."""
    if has_info(source):
        return [source]
    datasets: list[str] = []
    level, num_seen = [source], 0
    for _ in range(_MAX_DEPTH):
        below = [storage.join(uri, name) for uri in level for name in _names(uri)]
        num_seen += len(below)
        if num_seen > _MAX_FOLDERS:  # so many folders hold a corpus of videos, not datasets
            break
        found = [uri for uri in below if has_info(uri)]
        datasets += found
        level = [uri for uri in below if uri not in found]  # a dataset holds no others
    return datasets


def _names(folder: str) -> list[str]:
    try:
        return storage.list_folders(folder)
    except (storage.UnreachableError, storage.CredentialsError):
        raise
    except storage.StorageError:  # a folder without permission: the listing reports it
        return []
