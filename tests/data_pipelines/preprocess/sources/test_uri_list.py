"""Lists of URIs: every format, local and on S3; what they name is local, on S3 or on the web."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.sources.uri_list import list_uris
from lafp import storage
from lafp.config import ConfigError
from lafp.http.download import HttpConfig
from tests.http_server import answer, serving
from tests.labeled_source import go_through
from tests.peak_memory import peak_bytes
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0, drop_duplicates=False),
    val_fraction=0.0,
    http=HttpConfig(
        requests_per_s_per_host=500.0, retries=0, timeout_s=5.0, allow_private_addresses=True
    ),
)


def write_list(folder, suffix, uris):
    """A list with its URIs in the second column, ``link``."""
    rows = [{"caption": "a, b", "link": uri} for uri in uris]
    path = folder / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join(uris) + "\n\n", encoding="utf-8")
    elif suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["caption", "link"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    return path


SUFFIXES = [".txt", ".csv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_listed_in_its_order(tmp_path, suffix, where, request):
    uris = ["https://h/ä b.mp4?x=1,2", "s3://bucket/c.mp4", "/abs/d.mp4", "below/e.mp4"]
    uris += [f"https://h/{i}.mp4" for i in range(500)]
    path = write_list(tmp_path, suffix, uris)
    source, folder = str(path), str(tmp_path)
    if where == "s3":
        folder = request.getfixturevalue("s3_bucket")
        source = storage.join(folder, path.name)
        storage.write_bytes(source, path.read_bytes())
    cfg = replace(CFG, source=source, uri_column="link")
    items = list(list_inputs(cfg))
    uris[3] = storage.join(folder, "below/e.mp4")
    assert [item.uri for item in items] == uris
    assert {(item.num_bytes, item.labels_uri) for item in items} == {(0, None)}


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path, suffix):
    path = write_list(tmp_path, suffix, ["a.mp4"])
    with pytest.raises(ConfigError, match=r"no column 'uri'. It has: caption, link. Name the co"):
        list(list_inputs(replace(CFG, source=str(path))))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_list_that_is_empty_missing_or_of_another_format_is_a_config_error(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(ConfigError, match="No such file"):
        list(list_uris(str(path), None, "link", False))
    pq.write_table(pa.table({"link": pa.array([], pa.string())}), tmp_path / "x.parquet")
    for empty in ("x.txt", "x.csv", "x.jsonl"):
        (tmp_path / empty).write_text("link\n" if empty == "x.csv" else "\n")
    with pytest.raises(ConfigError, match="No URIs in"):
        list(list_uris(str(path), None, "link", False))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rubbish_in_place_of_a_list_is_a_config_error_or_reject_rows(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for rubbish in (b"\xff\xfe\x00" * 100, b"\x00" * 5000, b"\x89PNG\r\n\x1a\n\xde" * 50):
        path.write_bytes(rubbish)
        try:
            items = list(list_uris(str(path), None, "link", False))
        except ConfigError as error:
            assert str(path) in str(error)
        else:
            assert suffix in (".txt", ".jsonl")
            assert all("reject" in i.details or not storage.exists(i.uri) for i in items)


def test_rows_without_a_usable_uri_and_repeated_ones_are_rejects(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(20))
    rows = [{"uri": "a.mp4"}, {"uri": None}, {"uri": 7}, {"other": 1}, {"uri": "ftp://h/x.mp4"}]
    lines = [*map(json.dumps, rows), "{broken", json.dumps({"uri": str(tmp_path / "a.mp4")})]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(lines))
    clips, rejects = go_through(replace(CFG, source=str(path)))
    assert [clip.record.video_uri for clip in clips] == [str(tmp_path / "a.mp4")]
    found = [(r.video_uri.rpartition("#")[2], r.reason) for r in rejects]
    assert found == [*((str(row), "bad_entry") for row in range(2, 7)), ("7", "same_file")]
    assert rejects[-1].detail == rejects[-1].original_uri == str(tmp_path / "a.mp4")


def test_labels_lie_beside_what_a_list_names(tmp_path):
    path = write_list(tmp_path, ".txt", ["s3://b/x.mp4", "stacked.npz"])
    items = list(list_uris(str(path), "val", "uri", has_labels=True))
    stacked = str(tmp_path / "stacked.npz")
    assert [item.labels_uri for item in items] == ["s3://b/x.npz", stacked]
    assert {item.split for item in items} == {"val"}


def test_with_labels_what_a_list_cannot_name_is_never_dropped_without_a_trace(tmp_path):
    for name in ("a.h5", "b.hdf5", "c.tfrecord-00000-of-00001"):
        (tmp_path / name).write_bytes(b"\x89HDF")
    frames, action = moving_square(20), np.zeros((20, 2), np.float32)
    np.savez(tmp_path / "d.npz", image_0=frames, action=action)
    with serving() as host:
        host.files["/x.mp4"] = host.files["/x.h5"] = bytes(100)
        host.files["/d.npz"] = (tmp_path / "d.npz").read_bytes()
        rows = [
            f"{tmp_path}/*.*",
            f"{tmp_path}/a.h5",
            f"{host.url}/x.mp4",
            f"{host.url}/x.h5",
            f"{host.url}/d.npz",
        ]
        (tmp_path / "lists").mkdir()
        path = write_list(tmp_path / "lists", ".txt", rows)
        cfg = replace(CFG, source=str(path), labels=LabelsConfig())
        counts = FileCounts()
        items = list(list_inputs(cfg, counts))
        clips, rejects = go_through(cfg)
        assert [uri for _, uri, _ in host.hits] == ["/d.npz"]
    left_out = {kind.example.what: kind.example.why for kind in counts.kinds()}
    assert all("as the source" in left_out[kind] for kind in (".h5", ".hdf5", ".tfrecord"))
    assert len(items) == 5 and len({clip.record.video_uri for clip in clips}) == 2
    assert [(row.video_uri.rpartition("#")[2], row.reason) for row in rejects] == [
        ("2", "bad_entry"),
        ("3", "no_labels"),
        ("4", "bad_entry"),
    ]
    assert "as the source" in rejects[0].detail and "on the web" in rejects[1].detail


def test_local_s3_and_web_videos_of_one_list_and_what_is_missing(tmp_path, s3_bucket):
    videos = [write_video(tmp_path / f"{i}.mp4", moving_square(20, seed=i)) for i in range(3)]
    storage.write_bytes(storage.join(s3_bucket, "1.mp4"), videos[1].read_bytes())
    with serving() as host:
        host.files["/2.mp4"] = videos[2].read_bytes()
        host.answers["/busy.mp4"] = lambda handler, _: answer(handler, 503)
        host.files["/page.mp4"] = b"<html>"
        host.files["/large.mp4"] = bytes(200_000)
        uris = ["0.mp4", f"{s3_bucket}/1.mp4", f"{host.url}/2.mp4"]
        missing = ["gone.mp4", f"{s3_bucket}/gone.mp4", "s3://no-such-bucket-lafp/x.mp4"]
        missing += ["s3://Bad Name/x.mp4", f"{host.url}/gone.mp4"]
        bad = [f"{host.url}/busy.mp4", f"{host.url}/page.mp4", f"{host.url}/large.mp4"]
        path = write_list(tmp_path, ".txt", [*uris, *missing, *bad])
        cfg = replace(CFG, source=str(path), limits=LimitsConfig(max_bytes=100_000))
        clips, rejects = go_through(cfg)
    assert [clip.record.video_uri.rpartition("/")[2] for clip in clips] == [
        "0.mp4",
        "1.mp4",
        "2.mp4",
    ]
    reasons = [reject.reason for reject in rejects]
    assert reasons == [*5 * ["not_found"], "unreadable", "not_a_video", "too_many_bytes"]


def test_an_object_on_s3_that_is_too_large_is_not_fetched(tmp_path, s3_bucket):
    storage.write_bytes(storage.join(s3_bucket, "x.mp4"), bytes(2000))
    path = write_list(tmp_path, ".txt", [f"{s3_bucket}/x.mp4"])
    _, rejects = go_through(replace(CFG, source=str(path), limits=LimitsConfig(max_bytes=1000)))
    assert [(r.reason, r.detail) for r in rejects] == [("too_many_bytes", "2000 bytes")]


def test_a_url_as_the_source_itself_is_a_config_error():
    with pytest.raises(ConfigError, match=r"is on the web. Name a list"):
        list(list_inputs(replace(CFG, source="https://h/x.mp4")))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_long_list_is_never_in_memory(tmp_path, suffix):
    uris = [f"https://host/a/rather/long/path/{number:08d}.mp4" for number in range(15_000)]
    path = write_list(tmp_path, suffix, uris)
    del uris

    def read():
        assert sum(1 for _ in list_uris(str(path), None, "link", False)) == 15_000

    assert peak_bytes(read) < 4 * 2**20, "as items they are some 12 MB"
