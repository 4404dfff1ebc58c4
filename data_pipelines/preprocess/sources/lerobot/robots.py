"""Checks on the first rows of several LeRobot datasets that all belong to one robot."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.label_kinds import two_kinds
from data_pipelines.preprocess.rows import LabelSums
from data_pipelines.preprocess.sources.lerobot.tables import ACTION_KEY, STATE_KEY
from lafp import storage
from lafp.config import ConfigError


def check_one_robot(sources: Sequence[str], cfg: LabelsConfig) -> None:
    """Checks that the actions and states of several datasets have one size each.

    The sizes declared in ``info.json`` are not used, because they are wrong in some public
    datasets.

    Raises:
        ConfigError: The sizes differ. The message names two datasets.
    """
    if len(sources) < 2:
        return
    first: tuple[str, str] | None = None
    for source in sources:
        if not (kind := _kind(source, cfg)):
            continue  # opening its files will report the error
        first = first or (source, kind)
        if kind != first[1]:
            raise ConfigError(two_kinds(*first, source, kind))


def _kind(source: str, cfg: LabelsConfig) -> str:
    """Returns ``LabelSums.kind`` of the first row; empty if there is none."""
    uris = (file.uri for file in storage.list_files(storage.join(source, "data")))
    uri = next((uri for uri in uris if uri.endswith(".parquet")), None)
    if uri is None:
        return ""
    try:
        with storage.open_file(uri) as file:
            parquet = pq.ParquetFile(file)
            # Only one row is read, because a dataset's first file may be on S3 and large.
            names = set(parquet.schema_arrow.names)
            action, state = cfg.action_names(ACTION_KEY), cfg.state_names(STATE_KEY)
            wanted = [*action, *(state if names.issuperset(state) else ())]
            (row,) = next(parquet.iter_batches(batch_size=1, columns=wanted)).to_pylist()
    except storage.StorageError:
        raise
    except (pa.ArrowException, ArithmeticError, ValueError, OSError, StopIteration):
        return ""
    sizes = {name: int(np.size(value)) for name, value in row.items()}
    if not sizes.keys() >= set(action):
        return ""
    num_state = sum(sizes.get(name, 0) for name in state)
    zeros = (0.0,) * sum(sizes[name] for name in action)
    return LabelSums(num_rows=1, total=zeros, num_state=num_state).kind
