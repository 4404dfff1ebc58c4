"""Rejects LeRobot datasets of unsupported versions with a message that names the version."""

from collections.abc import Iterator

from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot.info import READ_MAJORS, READ_VERSIONS, read_info
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from lafp.config import ConfigError
from lafp.data.shards.format import Split


class LeRobotOther:
    """Raises an error for each dataset of an unsupported version."""

    def is_at(self, source: str) -> bool:
        """Says whether there is a dataset of an unsupported version."""
        info = read_info(source)
        return info is not None and info.version.split(".")[0] not in READ_MAJORS

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Raises the ConfigError that names the version."""
        info = read_info(source)
        assert info is not None
        raise ConfigError(
            f"{source} is a LeRobot dataset {info.version}; supported are {READ_VERSIONS}. Convert "
            "it with LeRobot's conversion scripts, or leave `labels` out and use its videos alone."
        )
        yield

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Raises an error. It is never called, because nothing is listed."""
        raise AssertionError(item.uri)
