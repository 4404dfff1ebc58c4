"""Files of small shard sets, whose clips are in one file, and of those that are divided."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from lafp import storage


def table_file(name: str) -> str:
    """Names the file of a table, relative to the set: ``clips``, ``rejects`` or ``manifest``."""
    return "clips/part-00000.parquet" if name == "clips" else f"{name}.parquet"


def upload_folder(folder: Path, uri: str) -> None:
    """Copies every file of a shard set."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{uri}/{path.relative_to(folder)}", path.read_bytes())


def divide(shards: Path, rows_per_file: int) -> int:
    """Divides the table of clips as that of a large set is. Returns the number of files."""
    table, spec = pq.read_table(shards / table_file("clips")), shards / "shard_set.json"
    for number, first in enumerate(range(0, len(table), rows_per_file)):
        path = shards / f"clips/part-{number:05d}.parquet"
        pq.write_table(table.slice(first, rows_per_file), path)
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"num_clip_files": number + 1}))
    return number + 1
