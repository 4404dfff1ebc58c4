"""LeRobot datasets of versions that are not read: the message names the version."""

from collections.abc import Iterator

from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot_info import READ_MAJORS, READ_VERSIONS, read_info
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from lafp.config import ConfigError
from lafp.data.shards.format import Split


class LeRobotOther:
    """Reads nothing, and says why."""

    def is_at(self, source: str) -> bool:
        """Whether there is a dataset of another version than those that are read."""
        info = read_info(source)
        return info is not None and info.version.split(".")[0] not in READ_MAJORS

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Raises the ConfigError that names the version."""
        info = read_info(source)
        assert info is not None
        raise ConfigError(
            f"{source} is a LeRobot dataset {info.version}; {READ_VERSIONS} are read. Convert it "
            "with the scripts that LeRobot has for that, or leave `labels` out and use its videos "
            "alone."
        )
        yield

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Is never called: nothing is listed."""
        raise AssertionError(item.uri)
