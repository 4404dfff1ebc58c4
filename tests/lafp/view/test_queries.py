"""Searches over a table, against the same done with plain Python on all of its rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.storage.stored_table import StoredTable
from lafp.view.queries import LENGTH, RANDOM, Query, Searched
from lafp.view.set_answers import CLIP_FIELDS

NUM_ROWS = 3000


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 100, NUM_ROWS)
    return [
        {
            "name": f"Kitchen_{n % 40}/take{n}.mp4",
            "split": "val" if n % 7 == 0 else "train",
            "is_good": bool(n % 3),
            "motion": float(rng.integers(50)) / 50,
            "start_s": float(start),
            "end_s": float(start + rng.integers(1, 10)),
        }
        for n, start in enumerate(starts)
    ]


@pytest.fixture(scope="module")
def searched(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    return Searched(StoredTable({str(path): path}), ["name", "split"])


def length(row: dict) -> float:
    return row["end_s"] - row["start_s"]


@pytest.mark.parametrize(
    ("query", "is_match"),
    [
        (Query(), lambda row: True),
        (Query(words=("KITCHEN_3/", "take1")), lambda r: "Kitchen_3/take1" in r["name"]),
        (Query(words=("val",)), lambda row: row["split"] == "val"),
        (Query(equal=(("split", "val"), ("is_good", "true"))),
         lambda row: row["split"] == "val" and row["is_good"]),
        (Query(between=(("motion", 0.2, 0.4), (LENGTH, 3.5, np.inf))),
         lambda row: 0.2 <= row["motion"] <= 0.4 and length(row) >= 3.5),
        (Query(words=("no such",)), lambda row: False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sort", ["", "motion", LENGTH])
@pytest.mark.parametrize("is_descending", [False, True])
def test_the_rows_are_those_that_match_in_the_order_asked_for(
    searched, rows, query, is_match, sort, is_descending
):
    query = Query(**vars(query) | {"sort": sort, "is_descending": is_descending})
    found = searched.rows(query).tolist()
    wanted = [n for n, row in enumerate(rows) if is_match(row)]
    if not sort:
        assert found == (wanted[::-1] if is_descending else wanted)
        return
    value = length if sort == LENGTH else lambda row: row[sort]
    sign = -1 if is_descending else 1
    # Equal values stay in the order of the table, so that pages neither repeat nor lose a row.
    assert found == sorted(wanted, key=lambda n: sign * value(rows[n]))


def test_a_shuffled_list_has_each_row_once_and_pages_that_fit_together(searched):
    query = Query(sort=RANDOM, equal=(("split", "val"),))
    total, first = searched.page(query, 0, 100, ["name"])
    _, second = searched.page(query, 100, 10_000, ["name"])
    numbers = [row["row"] for row in first + second]
    assert total == len(numbers) == len(set(numbers)) and numbers != sorted(numbers)


def test_rows_are_found_by_a_value(searched, rows):
    names = [rows[n]["name"] for n in (2999, 17, 700)]
    assert searched.find("name", [*names, "none"]) == [17, 700, 2999]


def test_totals_and_histograms_count_every_row(searched, rows):
    totals = searched.totals("split")
    assert list(totals) == ["train", "val"]
    assert sum(each["spans"] for each in totals.values()) == NUM_ROWS
    seconds = sum(length(row) for row in rows)
    assert sum(each["seconds"] for each in totals.values()) == pytest.approx(seconds)
    assert sum(searched.histogram("motion")["counts"]) == NUM_ROWS


def test_a_table_without_rows_is_searched_too(tmp_path):
    empty = pa.table({"name": pa.array([], pa.string()), "motion": pa.array([], pa.float64())})
    pq.write_table(empty, tmp_path / "empty.parquet")
    searched = Searched(StoredTable({"empty": tmp_path / "empty.parquet"}), ["name"])
    assert searched.page(Query(words=("a",), sort="motion"), 0, 10) == (0, [])
    assert searched.histogram("motion")["counts"] == []


@pytest.mark.parametrize("text", ["nan", "abc", "1e999x"])
def test_a_number_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="min_motion"):
        CLIP_FIELDS.parse({"min_motion": text})
