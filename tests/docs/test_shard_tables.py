"""docs/shard_tables.md names the columns, types and reasons that are written, and no others."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.rejects import REASONS, RejectRow
from lafp.data.shards.format import ClipRecord, ShardEntry
from lafp.storage.tables import open_table

TEXT = (Path(__file__).parents[2] / "docs/shard_tables.md").read_text()
TABLES = {
    "clips": (ClipRecord, {"shard": str}),
    "rejects": (RejectRow, {}),
    "manifest": (ShardEntry, {}),
}


def section(name: str) -> str:
    title = "clips/" if name == "clips" else f"{name}.parquet"
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", TABLES)
def test_documented_columns_are_those_that_are_written(name, tmp_path):
    row, more = TABLES[name]
    path = tmp_path / f"{name}.parquet"
    with open_table(str(path), row, more):
        pass
    written = [
        (field.name, str(field.type).replace("list<element: uint16>", "list of uint16"))
        for field in pq.read_schema(path)
    ]
    documented = re.findall(
        r"^\| `(\w+)` \| (string|double|int64|bool|list of uint16) \|", section(name), re.M
    )
    assert documented == written


def test_documented_reasons_are_those_that_are_given():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*) \|$", section("rejects").partition("| Reason |")[2], re.M
    )
    assert dict(rows) == REASONS
