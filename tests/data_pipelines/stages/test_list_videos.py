from pathlib import Path

import pytest

from data_pipelines.stages.list_videos import list_videos
from lafp import storage
from lafp.config import ConfigError

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


def names(source):
    return [item.uri.removeprefix(source + "/") for item in list_videos(source, None, False)]


def test_a_folder_is_searched_to_any_depth_and_sorted(source):
    assert names(source) == VIDEOS
    sizes = {item.uri: item.num_bytes for item in list_videos(source, None, False)}
    assert sizes[storage.join(source, "b/d.avi")] == 3


def test_a_glob_and_a_single_file_are_sources_too(source):
    matched = list_videos(storage.join(source, "*/*.[aw]*"), "val", False)
    assert [item.uri.rpartition("/")[2] for item in matched] == ["c.webm", "d.avi"]
    (item,) = list_videos(storage.join(source, "z é.MKV"), "val", False)
    assert (item.uri, item.num_bytes, item.split) == (storage.join(source, "z é.MKV"), 7, "val")


def test_a_missing_or_empty_source_is_a_config_error(source):
    with pytest.raises(ConfigError, match=r"No such file or folder: .*missing"):
        list(list_videos(storage.join(source, "missing"), None, False))
    with pytest.raises(ConfigError, match=r"No file matches .*\*.mov"):
        list(list_videos(storage.join(source, "*.mov"), None, False))
    with pytest.raises(ConfigError, match=r"it holds 1 other file\(s\)"):
        list(list_videos(storage.join(source, "b/notes.txt"), None, False))


def test_a_folder_whose_name_has_wildcards_is_a_folder(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"x")
    assert [item.uri for item in list_videos(str(folder), None, False)] == [str(folder / "a.mp4")]


def test_labeled_sources_pair_videos_with_sidecars_and_take_stacked_episodes(tmp_path):
    for name in ["episode_1.mp4", "episode_1.npz", "episode_2.mp4", "stacked.npz", "x.json"]:
        (tmp_path / name).write_bytes(b"x")
    pairs = [
        (Path(item.uri).name, Path(item.labels_uri).name)
        for item in list_videos(str(tmp_path), None, True)
    ]
    assert pairs == [
        ("episode_1.mp4", "episode_1.npz"),
        ("episode_2.mp4", "episode_2.npz"),
        ("stacked.npz", "stacked.npz"),
    ]
