"""Lists as people and programs write them: the odd row is a reject, the others are read."""

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.uri_list import list_uris
from lafp import storage
from lafp.config import ConfigError
from tests.cases import CFG, outcome
from tests.synthetic_video import moving_square, write_video


def listed(folder, text, suffix=".txt", encoding="utf-8"):
    """URI or reason of the reject of every row, paths from the list's folder on."""
    path = folder / f"list{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    found = list(list_uris(str(path), None, "uri", False))
    return [
        item.refused.reason if item.refused else item.uri.removeprefix(f"{folder}/")
        for item in found
        if isinstance(item, VideoItem)
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_any_machine_is_read(tmp_path, encoding, end, delimiter):
    rows = [["id", " URI ", "caption"], ["1", " ü.mp4", 'a "b"'], ["2", "b c.mp4", "x,y;z"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    assert listed(tmp_path, file.getvalue(), ".csv", encoding) == ["ü.mp4", "b c.mp4"]


NAMES = st.sampled_from(["a.mp4", "b c.mp4", "ü.mp4", "s3://b/k.mp4", "http://h/x.mp4?a=1,2"])
ODD = st.sampled_from(
    [
        "",
        "a\0b.mp4",
        "http://[::bad/x.mp4",
        "http://h:99999999/x.mp4",
        "http:///x.mp4",
        "ftp://h/x.mp4",
        "s3://",
        "s3://bucket-only",
        "file://elsewhere/x.mp4",
        "file://",
    ]
)


@given(st.lists(st.one_of(NAMES, ODD), min_size=1, max_size=12), st.sampled_from(["csv", "jsonl"]))
@settings(deadline=None)
def test_one_row_never_costs_another(tmp_path_factory, rows, kind):
    folder = tmp_path_factory.getbasetemp()
    if kind == "csv":
        file = io.StringIO()
        csv.writer(file).writerows([["uri", "n"], *([row, i] for i, row in enumerate(rows))])
        found = listed(folder, file.getvalue(), ".csv")
    else:
        found = listed(folder, "\n".join(json.dumps({"uri": row}) for row in rows), ".jsonl")
    assert len(found) == len(rows)
    seen = set()
    for row, result in zip(rows, found, strict=True):
        is_good = row.endswith((".mp4", "1,2")) and "\0" not in row
        is_good &= not row.startswith(("ftp", "file", "http://[", "http:///", "http://h:9"))
        expected = "same_file" if row in seen else row if is_good else "bad_entry"
        assert result == expected
        if is_good:
            seen.add(row)


def test_an_open_quote_costs_its_row_and_no_other(tmp_path):
    sound = [f"{i}.mp4,text" for i in range(2000)]
    text = "\n".join(["uri,caption", *sound[:3], 'x.mp4,"never closed', *sound[3:]])
    names = [row.partition(",")[0] for row in sound]
    assert listed(tmp_path, text, ".csv") == [*names[:3], "bad_entry", *names[3:]]
    short = "\n".join(["uri,caption", 'x.mp4,"never closed', *sound[:5]])
    assert listed(tmp_path, short, ".csv") == ["bad_entry", *names[:5]]
    multi_line = 'uri,caption\na.mp4,"two\nlines"\nb.mp4,"at\nthe end"'
    assert listed(tmp_path, multi_line, ".csv") == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_a_line_without_an_end_does_not_fill_memory(tmp_path, suffix):
    head = {".txt": "", ".csv": "uri,caption\n", ".jsonl": ""}[suffix]
    row = {".jsonl": '{"uri": "a.mp4"}'}.get(suffix, "a.mp4")
    found = listed(tmp_path, f"{head}{row}\n{'x' * 5_000_000}\n{row.replace('a', 'b')}\n", suffix)
    assert (found[0], found[2]) == ("a.mp4", "b.mp4") and len(found) == 3


def test_a_csv_whose_first_line_is_no_header_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="has no column 'uri'"):
        listed(tmp_path, '"' + "x" * 200_000, ".csv")


def test_deep_json_and_half_characters_are_rejects(tmp_path):
    lines = ['{"uri": "a.mp4"}', '{"uri": ' + "[" * 100_000, '{"uri": "\\ud800.mp4"}', "[1]", "7"]
    assert listed(tmp_path, "\n".join(lines), ".jsonl") == ["a.mp4", *4 * ["bad_entry"]]


def test_comments_quotes_and_blanks_of_a_text_list(tmp_path):
    text = "# videos\n\n 'a b.mp4' \n\"c.mp4\"\n  # more\nd#e.mp4\n./#f.mp4\n"
    assert listed(tmp_path, text) == ["a b.mp4", "c.mp4", "d#e.mp4", "./#f.mp4"]
    counts = FileCounts()
    assert len(list(list_inputs(replace(CFG, source=str(tmp_path / "list.txt")), counts))) == 4
    (kind,) = counts.table().left_out
    assert (kind.files, kind.what) == (2, "row of the list")
    assert "comment" in kind.why and kind.example.endswith("list.txt#1")


@given(
    st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name)
)
@settings(deadline=None, max_examples=50)
def test_a_file_uri_names_any_file(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    path = folder / os.fsdecode(b"x" + name + b".mp4")
    path.write_bytes(name)
    (found,) = listed(folder, f"file://{quote(os.fsencode(path))}")
    assert storage.read_bytes(str(folder / found)) == name
    path.unlink()


def test_schemes_may_be_in_capitals(tmp_path):
    rows = ["HTTP://h/x.mp4", "Https://h/y.mp4?A=B", "S3://b/k.mp4", f"FILE://{tmp_path}/z.mp4"]
    expected = ["http://h/x.mp4", "https://h/y.mp4?A=B", "s3://b/k.mp4", "z.mp4"]
    assert listed(tmp_path, "\n".join(rows)) == expected


def test_a_row_with_wildcards_names_what_matches_and_each_file_once(tmp_path):
    for name in ("v/a.mp4", "v/b.mp4", "v/notes.txt", "v/[1].mp4", "v/deep/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    text = "v/[1].mp4\nv/a*.mp4\nv/*.mp4\nw/*.mp4\nv/*.avi\n"
    found = listed(tmp_path, text)
    assert found[:2] == ["v/[1].mp4", "v/a.mp4"]
    assert sorted(found[2:]) == sorted(
        ["same_file", "same_file", "v/b.mp4", "v/deep/c.mp4", "not_found", "not_found"]
    )
    assert found[-2:] == ["not_found", "not_found"]


def test_bytes_of_a_parquet_column_are_names(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array([b"a.mp4", b"caf\xe9.mp4", None], pa.binary())
    pq.write_table(pa.table({"uri": rows}), tmp_path / "list.parquet")
    found = list(list_uris(str(tmp_path / "list.parquet"), None, "uri", False))
    assert [Path(item.uri).name for item in found[:2]] == ["a.mp4", "caf\\xe9.mp4"]
    assert found[2].refused.reason == "bad_entry"


def test_rows_that_name_no_file_are_rejects_and_the_others_clips(tmp_path):
    """Folders, pipes, devices, links in circles and names that no file can have."""
    write_video(tmp_path / "good.mp4", moving_square(20), fps=10)
    write_video(tmp_path / os.fsdecode(b"caf\xe9.mp4"), moving_square(20, seed=1), fps=10)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("missing")
    rows = [b"good.mp4", b"folder.mp4", b"pipe.mp4", b"/dev/zero", b"loop.mp4", b"nowhere.mp4"]
    rows += [b"good.mp4/x.mp4", b"y" * 300, b"z/" * 3000, b"~nobody-at-all/x.mp4", b"caf\xe9.mp4"]
    (tmp_path / "list.txt").write_bytes(b"\n".join(rows))
    (tmp_path / "work").mkdir()
    found = outcome(replace(CFG, source=str(tmp_path / "list.txt")), tmp_path / "work")
    assert found.error == "" and found.names == ["caf\\xe9.mp4", "good.mp4"]
    reasons = {row.video_uri.removeprefix(f"{tmp_path}/"): row.reason for row in found.rejects}
    assert reasons == {
        "folder.mp4": "not_a_file",
        "pipe.mp4": "not_a_file",
        "/dev/zero": "not_a_file",
        "loop.mp4": "unreadable",
        "nowhere.mp4": "not_found",
        "good.mp4/x.mp4": "not_found",
        "y" * 300: "not_found",
        ("z/" * 3000)[:-1]: "not_found",
        "~nobody-at-all/x.mp4": "not_found",
    }


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary", "binary", "timestamp"])
def test_a_parquet_row_that_is_no_text_costs_only_itself(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array([b"a.mp4", b"caf\xe9.mp4", None, b"b.mp4"], pa.binary())
    if kind == "timestamp":
        column = pa.array([0, 2**58, None, 1], pa.timestamp("ms"))
    elif kind == "binary":
        column = rows
    else:
        text = pa.large_string() if kind == "large_string" else pa.string()
        rows = rows.cast(pa.large_binary()) if kind == "large_string" else rows
        column = type(rows).from_buffers(rows.type, len(rows), rows.buffers()).view(text)
        if kind == "dictionary":
            column = column.dictionary_encode()
    pq.write_table(pa.table({"uri": column}), tmp_path / "list.parquet")
    found = list(list_uris(str(tmp_path / "list.parquet"), None, "uri", False))
    assert len(found) == 4
    if kind == "timestamp":
        assert {item.refused.reason for item in found} == {"bad_entry"}
        return
    names = [Path(item.uri).name for item in found]
    assert names == ["a.mp4", "caf\\xe9.mp4", "list.parquet#3", "b.mp4"]
