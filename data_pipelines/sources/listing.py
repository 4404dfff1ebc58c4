"""List the inputs of a source, whatever it is."""

import itertools
from collections.abc import Iterator

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import VideoItem
from data_pipelines.sources import find_labeled_sources
from data_pipelines.sources.lerobot_robots import check_one_robot
from data_pipelines.sources.uri_list import is_uri_list, list_uris
from data_pipelines.stages.list_videos import list_videos
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split


def list_source(source: str, split: Split | None, cfg: PreprocessConfig) -> Iterator[VideoItem]:
    """Streams the inputs of one source in a stable order; their URIs differ.

    Raises:
        ConfigError: The source does not exist, holds no input, or cannot be used as a whole.
    """
    if storage.is_http(source):
        raise ConfigError(
            f"source {source} is on the web. Give a list: a .txt file with this URI in it."
        )
    if is_uri_list(source):
        return list_uris(source, split, cfg.uri_column, has_labels=cfg.labels is not None)
    found = find_labeled_sources(source) if cfg.labels is not None else []
    if found:
        assert cfg.labels is not None
        check_one_robot([uri for _, uri in found], cfg.labels)
        return itertools.chain.from_iterable(reader.list_items(uri, split) for reader, uri in found)
    return list_videos(source, split, has_labels=cfg.labels is not None)


def may_download(cfg: PreprocessConfig) -> bool:
    """Whether there may be inputs on the web."""
    return any(uri is not None and is_uri_list(uri) for uri in (cfg.source, cfg.val_source))
