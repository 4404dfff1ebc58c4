"""Lists the inputs of a source of any kind, and the files that are left out."""

import itertools
from collections.abc import Iterator

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import rejected_item, video_error
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources import LABELED_SOURCES, LabeledSource
from data_pipelines.preprocess.sources.file_kinds import LABELS_SUFFIX, labeled_format
from data_pipelines.preprocess.sources.lerobot.dataset import find_datasets
from data_pipelines.preprocess.sources.lerobot.robots import check_one_robot
from data_pipelines.preprocess.sources.list_videos import (
    check_inputs,
    list_source_files,
    list_videos,
)
from data_pipelines.preprocess.sources.uri_list import is_uri_list, list_uris
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.storage.secrets import without_secrets

_NUM_LOOKED_AT = 100


def list_source(
    source: str, split: Split | None, cfg: PreprocessConfig
) -> Iterator[VideoItem | LeftOut]:
    """Streams the inputs of one source in a stable order, with distinct URIs.

    A file that cannot be listed is an input too: it becomes a reject row.

    Raises:
        ConfigError: The source does not exist, holds no input, or cannot be used as a whole.
    """
    if storage.is_http(source):
        raise ConfigError(
            f"source {without_secrets(source)} is on the web. Name a list as the source: a .txt "
            "file with this URI."
        )
    if is_uri_list(source):
        # A list is not checked for having inputs: every row is an input or a reject row.
        return list_uris(source, split, cfg.uri_column, has_labels=cfg.labels is not None)
    listed = _with_labels(source, split, cfg.labels) if cfg.labels else _videos(source, split)
    return check_inputs(listed, source)


def may_download(cfg: PreprocessConfig) -> bool:
    """Says whether there may be inputs on the web."""
    return bool(_lists(cfg))


def lists_remote_files(cfg: PreprocessConfig) -> bool:
    """Says whether a list of the job names a file on the web or in an object store.

    It reads the lists up to the first such row, which takes little beside decoding the rows before.

    Raises:
        ConfigError: A list cannot be read.
    """
    return any(
        storage.is_http(found.uri) or storage.is_remote(found.uri)
        for uri in _lists(cfg)
        for found in list_source(uri, None, cfg)
    )


def _lists(cfg: PreprocessConfig) -> list[str]:
    return [uri for uri in (cfg.source, cfg.val_source) if uri is not None and is_uri_list(uri)]


def _videos(source: str, split: Split | None) -> Iterator[VideoItem | LeftOut]:
    for found in list_videos(list_source_files(source), split, has_labels=False):
        assert not isinstance(found, storage.FileInfo)
        yield found


def _with_labels(
    source: str, split: Split | None, labels: LabelsConfig
) -> Iterator[VideoItem | LeftOut]:
    """Lists every format in the source, one after the other."""
    datasets = find_datasets(source)
    # Checked before anything is decoded, because a policy has actions of one size only.
    check_one_robot(datasets, labels)
    for folder in datasets:
        yield from _listed_by(
            LABELED_SOURCES.get("lerobot")(), folder, split, may_stop=folder == source
        )
    if source in datasets:
        return
    folders = tuple(f"{folder}/" for folder in datasets)
    files = (file for file in list_source_files(source) if not file.uri.startswith(folders))
    is_mixed = _holds_whole_episodes(source)
    for found in list_videos(files, split, has_labels=True):
        if is_mixed and isinstance(found, VideoItem) and found.labels_uri == found.uri:
            # Often a copy of the same episodes for readers without the other format.
            why = "lies beside files of another format: name it as a source to read it"
            yield LeftOut(uri=found.uri, what=LABELS_SUFFIX, why=why)
        elif isinstance(found, storage.FileInfo):
            of_file = LABELED_SOURCES.get(labeled_format(found.uri))()
            yield from _listed_by(of_file, found.uri, split, may_stop=True)
        else:
            yield found


def _holds_whole_episodes(source: str) -> bool:
    """Says whether the first files of the source include one of a labeled format."""
    files = itertools.islice(list_source_files(source), _NUM_LOOKED_AT)
    return any(labeled_format(file.uri) for file in files)


def _listed_by(
    reader: LabeledSource, uri: str, split: Split | None, may_stop: bool
) -> Iterator[VideoItem | LeftOut]:
    """Yields a reader's listing. An unusable one of several datasets becomes a reject row."""
    try:
        yield from reader.list_items(uri, split)
    except ConfigError as error:
        if may_stop:
            raise
        yield rejected_item(uri, split, Refused("unreadable", str(error)))
    except Exception as error:
        found = video_error(error)
        yield rejected_item(uri, split, Refused(found.reason, found.detail))
