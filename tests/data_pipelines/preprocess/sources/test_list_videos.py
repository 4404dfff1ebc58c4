"""Listing: what is an input, what is left out, and that nothing is in neither."""

import mimetypes
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.file_counts import FileCounts, FileKind
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.list_videos import list_videos
from data_pipelines.preprocess.sources.listing import list_source
from lafp import storage
from lafp.config import ConfigError
from lafp.storage import FileInfo
from tests.cases import CFG

LABELED = replace(CFG, labels=LabelsConfig())
FILES = [
    "0.tar",
    "a.mp4",
    "b/c.webm",
    "b/d.avi",
    "b/notes.txt",
    "b/labels.npz",
    "no_suffix",
    "z é.MKV",
]
VIDEOS = ["0.tar", "a.mp4", "b/c.webm", "b/d.avi", "no_suffix", "z é.MKV"]


@pytest.fixture(params=["local", "s3"])
def source(request, tmp_path):
    if request.param == "local":
        root = str(tmp_path / "source")
    else:
        root = storage.join(request.getfixturevalue("s3_bucket"), "some/source")
    for i, name in enumerate([*FILES, ".hidden/x.mp4"]):
        storage.write_bytes(storage.join(root, name), b"x" * i)
    return root


def items(source, cfg=CFG):
    return [item for item in list_source(source, None, cfg) if isinstance(item, VideoItem)]


def test_a_folder_is_searched_to_any_depth_and_sorted(source):
    found = items(source)
    assert [item.uri.removeprefix(source + "/") for item in found] == VIDEOS
    assert {item.uri: item.num_bytes for item in found}[storage.join(source, "b/d.avi")] == 3


def test_a_glob_and_a_single_file_are_sources_too(source):
    matched = list_source(storage.join(source, "*/*.[aw]*"), "val", CFG)
    assert [item.uri.rpartition("/")[2] for item in matched] == ["c.webm", "d.avi"]
    (item,) = list_source(storage.join(source, "z é.MKV"), "val", CFG)
    assert (item.uri, item.num_bytes, item.split) == (storage.join(source, "z é.MKV"), 7, "val")


def test_a_missing_or_empty_source_is_a_config_error(source):
    with pytest.raises(ConfigError, match=r"No such file or folder: .*missing"):
        items(storage.join(source, "missing"))
    with pytest.raises(ConfigError, match=r"No file matches .*\*.mov"):
        items(storage.join(source, "*.mov"))
    with pytest.raises(ConfigError, match=r"it holds 1 other file\(s\): 1 \.md \(text or meta"):
        storage.write_bytes(storage.join(source, "b/notes.md"), b"x")
        items(storage.join(source, "b/notes.md"))


def test_a_folder_whose_name_has_wildcards_is_a_folder(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"x")
    assert [item.uri for item in items(str(folder))] == [str(folder / "a.mp4")]


def test_every_file_is_an_input_or_counted_with_the_reason(tmp_path):
    names = ["a.mp4", "a.npz", "b.json", "c.json", "d.jpg", "e.mxf", "f.unheard", "g.tar.gz"]
    names += ["h.hdf5", "i.tfrecord-00000-of-00001", "j.zip"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    counts = FileCounts()
    cfg = replace(CFG, source=str(tmp_path))
    found = {Path(item.uri).name: item for item in list_inputs(cfg, counts)}
    assert list(found) == ["a.mp4", "e.mxf", "f.unheard", "g.tar.gz", "gone.mp4", "j.zip"]
    assert [name for name, item in found.items() if item.is_guess] == ["f.unheard", "j.zip"]
    assert found["gone.mp4"].refused.reason == "not_found"
    table = counts.table()
    assert (table.seen, table.read) == (13, 6)
    assert {(kind.what, kind.files) for kind in table.left_out} == {
        (".json", 2),
        (".npz", 1),
        (".jpg", 1),
        (".hdf5", 1),
        (".tfrecord", 1),
        ("a named pipe", 1),
    }
    assert table.left_out[0] == FileKind(
        what=".json", why="text or metadata", files=2, example=str(tmp_path / "b.json")
    )


def test_the_listing_does_not_ask_the_machine_what_a_suffix_means(tmp_path, monkeypatch):
    monkeypatch.setattr(mimetypes, "guess_type", lambda *_: pytest.fail("asked"))
    for name in ("a.mxf", "b.txt", "c.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(item.uri).name for item in items(str(tmp_path))] == ["a.mxf", "c.bin"]


def pairs(folder):
    found = items(str(folder), LABELED)
    return [(Path(item.uri).name, Path(item.labels_uri).name) for item in found]


def test_labeled_sources_pair_videos_with_sidecars_and_take_stacked_episodes(tmp_path):
    for name in ["episode_1.mp4", "episode_1.npz", "episode_2.mp4", "stacked.npz", "x.json"]:
        (tmp_path / name).write_bytes(b"x")
    assert pairs(tmp_path) == [
        ("episode_1.mp4", "episode_1.npz"),
        ("episode_2.mp4", "episode_2.npz"),
        ("stacked.npz", "stacked.npz"),
    ]


STEMS = st.sampled_from(["a", "a.b", "a-2", "ab", "x.mp4", "x", "ep 1", "A"])
SUFFIXES = [
    ".mp4",
    ".unheard",
    ".npz",
    ".NPZ",
    ".json",
    ".info.json",
    ".mp4.md5",
    ".mp4.json",
    ".jpg",
]


@given(st.lists(st.tuples(STEMS, st.sampled_from(SUFFIXES)), min_size=1, max_size=12, unique=True))
def test_whatever_stands_between_a_video_and_its_labels_they_are_found(parts):
    names = sorted({stem + suffix for stem, suffix in parts})
    files = [FileInfo(uri=f"/set/{name}", num_bytes=1) for name in names]
    found = list(list_videos(files, None, has_labels=True))
    used = Counter(item.uri for item in found)
    used.update({i.labels_uri for i in found if isinstance(i, VideoItem)} - set(used))
    assert all(used[file.uri] == 1 for file in files), "each is an input, labels or left out"
    for item in found:
        if isinstance(item, LeftOut) or item.uri.lower().endswith(".npz"):
            continue
        stem = item.uri.rpartition(".")[0]
        for labels in (f"{stem}.npz", f"{stem}.NPZ"):
            if labels in {file.uri for file in files}:
                assert item.labels_uri.lower() == labels.lower()


def test_two_formats_in_one_folder_are_both_listed_and_a_copy_is_named(tmp_path):
    for name in ("a.tfrecord", "b.mp4", "b.npz", "c.npz", "d.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = list(list_source(str(tmp_path), None, LABELED))
    readers = {Path(i.uri).name: i.reader for i in found if isinstance(i, VideoItem)}
    assert readers == {"a.tfrecord": "rlds", "b.mp4": ""}
    assert {Path(i.uri).name for i in found if isinstance(i, LeftOut)} == {"c.npz", "d.txt"}


def test_a_broken_dataset_among_others_is_a_reject_row(tmp_path):
    (tmp_path / "broken/meta").mkdir(parents=True)
    (tmp_path / "broken/meta/info.json").write_text("{")
    (tmp_path / "x.mp4").write_bytes(b"x")
    broken, video = items(str(tmp_path), LABELED)
    assert Path(broken.uri).name == "broken" and broken.refused.reason == "unreadable"
    assert "is not valid JSON" in broken.refused.detail and Path(video.uri).name == "x.mp4"
    with pytest.raises(ConfigError, match="is not valid JSON"):
        items(str(tmp_path / "broken"), LABELED)
