"""Rows come back from a table as they went in, on a disk and on a real S3 API."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lafp import storage
from lafp.storage.divided_table import open_divided_table
from lafp.storage.stored_table import StoredTable
from lafp.storage.strict_json import DamagedError
from lafp.storage.tables import (
    iter_batches,
    iter_rows,
    num_rows,
    open_table,
    read_rows,
    read_table,
    rewrite_table,
    schema_of,
    write_rows,
    write_table,
)


@dataclass(frozen=True)
class Row:
    name: str
    split: Literal["train", "val"]
    count: int
    value: float | None
    is_good: bool | None
    modes: list[int]
    motion: tuple[int, ...]
    inner: tuple[dict, ...] = ()


ROWS = [
    Row(f"r{i}", "train" if i % 3 else "val", i, None if i % 2 else i / 7, None, [i], (i % 9,))
    for i in range(12_000)
]
EXPECTED = [
    {name: value for name, value in asdict(row).items() if name != "inner"}
    | {"motion": list(row.motion)}
    for row in ROWS
]


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "folder" / "table.parquet")
    return f"{request.getfixturevalue('s3_bucket')}/folder/table.parquet"


def test_columns_have_the_types_of_the_dataclass_whatever_the_values():
    names = {"name": "string", "split": "string", "count": "int64", "value": "double"}
    names |= {"is_good": "bool", "shard": "string"}
    types = {name: pa.type_for_alias(alias) for name, alias in names.items()}
    lists = {"modes": pa.list_(pa.int64()), "motion": pa.list_(pa.uint16())}
    schema = schema_of(Row, {"shard": str})
    assert dict(zip(schema.names, schema.types, strict=True)) == types | lists


def test_rows_come_back_whole_in_part_and_in_pieces(uri):
    write_rows(uri, Row, iter(ROWS))
    assert read_rows(uri) == EXPECTED and num_rows(uri) == len(ROWS)
    assert list(iter_rows(uri, batch_rows=700)) == EXPECTED
    assert list(iter_rows(uri, ["count"])) == [{"count": row.count} for row in ROWS]
    assert read_table(uri, ["count", "name"]).column_names == ["count", "name"]
    assert read_rows(uri, ["count"], [("name", "in", ["r5", "r7"])]) == [{"count": 5}, {"count": 7}]
    found = iter_rows(uri, ["name"], (pc.field("split") == "val") & (pc.field("count") > 11_990))
    assert [row["name"] for row in found] == ["r11991", "r11994", "r11997"]


def test_a_column_that_is_missing_is_named(tmp_path):
    write_rows(str(tmp_path / "table.parquet"), Row, ROWS[:1])
    for read in (read_rows, iter_rows):
        with pytest.raises(ValueError, match=r"table\.parquet has no column age, height$"):
            list(read(str(tmp_path / "table.parquet"), ["name", "height", "age"]))


def test_a_column_of_other_values_than_expected_is_damage(tmp_path):
    uri = str(tmp_path / "t.parquet")
    write_table(uri, pa.table({"clip_id": [["a"], ["b"]], "n": [1, 2]}))
    assert read_rows(uri, {"n": int}) == [{"n": 1}, {"n": 2}]
    with pytest.raises(DamagedError, match=r"t\.parquet has list<.*> in column clip_id, expected"):
        read_rows(uri, {"n": int, "clip_id": str})


def test_a_table_is_in_place_only_when_it_is_whole(uri):
    write_rows(uri, Row, ROWS[:1])
    with pytest.raises(RuntimeError, match="half"), open_table(uri, Row) as table:
        table.add(EXPECTED[1])
        raise RuntimeError("half")
    assert read_rows(uri) == EXPECTED[:1]


def test_a_table_without_rows_has_its_columns(uri):
    write_rows(uri, Row, [])
    assert read_rows(uri) == [] and read_table(uri).schema.names == schema_of(Row).names


def test_a_rewritten_table_is_the_same_file_when_it_is_rewritten_again(uri):
    write_rows(uri, Row, ROWS)

    def late(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.greater(batch["count"], 9_999))

    rewrite_table(uri, late)
    once = storage.read_bytes(uri)
    assert read_rows(uri) == EXPECTED[10_000:]
    rewrite_table(uri, late)
    with storage.local_file(uri) as path:
        groups = pq.read_metadata(path)
        sizes = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
    assert storage.read_bytes(uri) == once and all(sizes)


def test_single_rows_and_columns_of_a_stored_table_are_read_in_any_order(tmp_path):
    files = {name: tmp_path / name for name in ("first", "second")}
    table = pa.table({"number": list(range(23)), "name": [f"n{n}" for n in range(23)]})
    for rows, path in ((table.slice(0, 17), files["first"]), (table.slice(17), files["second"])):
        pq.write_table(rows, path, row_group_size=5)
    stored = StoredTable(files)
    assert stored.num_rows == 23
    rows = [22, 0, 5, 4, 5, 19]
    assert stored.take(rows) == [{"number": n, "name": f"n{n}"} for n in rows]
    assert stored.take(rows, ["name"]) == [{"name": f"n{n}"} for n in rows]
    assert stored.take([]) == []
    batches = list(stored.batches(["number"]))
    assert pa.Table.from_batches(batches) == table.select(["number"])


def test_a_stored_table_names_the_file_that_is_damaged(tmp_path):
    files = {"s3://bucket/a": tmp_path / "a", "s3://bucket/b": tmp_path / "b"}
    pq.write_table(pa.table({"number": [1]}), files["s3://bucket/a"])
    files["s3://bucket/b"].write_bytes(b"no table")
    with pytest.raises(DamagedError, match=r"^s3://bucket/b is damaged"):
        StoredTable(files)


# Each reads the column ``name`` of one file, whose string is no UTF-8.
READERS = {
    "read_table": read_table,
    "read_table, filters": lambda uri: read_table(uri, ["name"], [("number", "==", 1)]),
    "iter_batches": lambda uri: list(iter_batches(uri, ["name"])),
    "iter_rows": lambda uri: list(iter_rows(uri)),
    "iter_rows, wanted": lambda uri: list(iter_rows(uri, wanted=pc.field("number") == 1)),
    "StoredTable.batches": lambda uri: list(StoredTable({uri: Path(uri)}).batches(["name"])),
    "StoredTable.take": lambda uri: StoredTable({uri: Path(uri)}).take([0]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_string_that_is_no_utf_8_is_damage(tmp_path, name):
    uri = str(tmp_path / "table.parquet")
    data = pa.array([b"caf\xe9"]).view(pa.string())  # Latin-1
    pq.write_table(pa.table({"number": [1], "name": data}), uri)
    with pytest.raises(DamagedError, match=rf"^{uri} is damaged"):
        READERS[name](uri)


def test_batches_hold_the_wanted_rows_alone_and_other_row_groups_are_not_read(uri):
    write_rows(uri, Row, sorted(ROWS, key=lambda row: row.split))
    wanted = [row.count for row in ROWS if row.split == "val"]
    batches = list(iter_batches(uri, {"count": int}, {"split": "val"}))
    assert [n for batch in batches for n in batch["count"].to_pylist()] == wanted
    assert {tuple(batch.schema.names) for batch in batches} == {("count",)}
    assert not list(iter_batches(uri, ["count"], {"split": "none"}))
    for columns in ({"count": str}, ["age"]):
        with pytest.raises(DamagedError):
            list(iter_batches(uri, columns, {"split": "val"}))


def test_a_row_group_without_a_wanted_row_is_left_unread(tmp_path):
    uri, table = tmp_path / "t.parquet", pa.table({"split": ["train"] * 9 + ["val"] * 9})
    pq.write_table(table.append_column("n", pa.array(range(18))), uri, row_group_size=9)
    first = pq.read_metadata(uri).row_group(0)
    at, size = first.column(1).dictionary_page_offset, first.column(1).total_compressed_size
    data = bytearray(uri.read_bytes())
    data[at : at + size] = bytes(size)
    uri.write_bytes(data)
    (batch,) = iter_batches(str(uri), ["n"], {"split": "val"})
    assert batch["n"].to_pylist() == list(range(9, 18))
    with pytest.raises(DamagedError):
        list(iter_batches(str(uri), ["n"], {"split": "train"}))


@pytest.mark.parametrize("sizes", [[12_000], [1] + [3_000] * 3 + [2_999], [5_000, 5_000, 2_000]])
def test_a_table_is_divided_alike_whatever_the_pieces_that_it_comes_in(tmp_path, sizes):
    table, schema = pa.Table.from_pylist(EXPECTED, schema_of(Row)), schema_of(Row)

    def written(sizes: list[int], folder: str) -> list[bytes]:
        first = 0
        with open_divided_table(lambda n: f"{tmp_path}/{folder}/{n}", schema, 10_000) as add:
            for size in sizes:
                add(table.slice(first, size))
                first += size
            # The first file is there before the last one is whole.
            assert [path.name for path in (tmp_path / folder).iterdir()] == ["0"]
        return [(tmp_path / folder / name).read_bytes() for name in ("0", "1")]

    assert written(sizes, "a") == written([4_000] * 3, "b")
    assert pq.read_table(tmp_path / "a").equals(table)


def test_a_divided_table_without_rows_or_with_one_full_file_has_one_file(tmp_path):
    table, schema = pa.table({"n": range(5_000)}), pa.schema({"n": pa.int64()})
    for name, tables in {"none": [], "full": [table]}.items():
        with open_divided_table(lambda n, to=name: f"{tmp_path}/{to}/{n}", schema, 5_000) as add:
            for each in tables:
                add(each)
        assert [path.name for path in (tmp_path / name).iterdir()] == ["0"]
        assert len(pq.read_table(tmp_path / name)) == 5_000 * len(tables)
