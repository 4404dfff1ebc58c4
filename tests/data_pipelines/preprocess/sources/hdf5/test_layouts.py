"""HDF5 files whose groups, links, names and arrays are not those of the usual layouts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.sources.hdf5.layout import cameras, trajectory_names
from tests.data_pipelines.preprocess.sources.hdf5.test_trajectories import actions_of, check_numbers
from tests.labeled_source import CFG, go_through
from tests.synthetic_video import numbered

h5py = pytest.importorskip("h5py")


def write_demo(file, path: str, number: int = 0) -> None:
    """A trajectory whose actions are the numbers on its pictures."""
    file[f"{path}/obs/front"] = numbered(20 + number)[number:]
    file[f"{path}/actions"] = actions_of(number) + np.array([number, 0])


def of_file(tmp_path, write) -> tuple[list, list]:
    with h5py.File(tmp_path / "a.h5", "x") as file:
        write(file)
    clips, rejects = go_through(replace(CFG, source=str(tmp_path)))
    check_numbers(clips)
    return [clip.record.video_uri.partition("#")[2] for clip in clips], rejects


NAMES = st.sampled_from(["a", "data", "demo_2", "demo_10", "task é", "b\nc", "\udce9"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(paths=st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=6))
def test_every_trajectory_is_found_at_any_depth(tmp_path_factory, paths):
    # A trajectory inside of another one is a part of it.
    outer = {p for p in paths if not any(p.startswith(f"{other}/") for other in paths)}
    with h5py.File(tmp_path_factory.mktemp("h5") / "a.h5", "x") as file:
        file["version"] = 3
        for path in outer:
            group = file.create_group(path.encode(errors="surrogateescape"))
            group["obs/front"] = numbered(2)
            group["actions"] = actions_of(0, 2)
        assert sorted(trajectory_names(h5py, file)) == sorted(outer)


def test_what_stands_beside_trajectories_is_said(tmp_path):
    def write(file):
        for number in (0, 2):
            write_demo(file, f"data/demo_{number}", number)
        write_demo(file, "more/sets/demo_5", 5)
        file.create_group("data/demo_1")
        file["data/demo_3"] = h5py.SoftLink("/data/demo_3")
        file["data/demo_4"] = h5py.SoftLink("/gone")
        file["data/total"] = 40
        file["mask/train"] = np.array([b"demo_0"])
        file["unlabeled/demo_9/front"] = numbered(20)

    found, rejects = of_file(tmp_path, write)
    assert found == ["demo_0/front", "demo_2/front", "more/sets/demo_5/front"]
    assert {row.video_uri.partition("#")[2]: row.reason for row in rejects} == {
        "demo_1": "no_video_stream",
        "demo_3": "does_not_decode",
        "demo_4": "does_not_decode",
        "unlabeled/demo_9/front": "no_labels",
    }


def test_a_damaged_trajectory_is_a_reject_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "x", libver="latest") as file:
        for number in range(3):
            write_demo(file, f"data/demo_{number}", number)
        at = h5py.h5o.get_info(file["data/demo_1"].id).addr
    data = bytearray(path.read_bytes())
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    clips, rejects = go_through(replace(CFG, source=str(path)))
    assert [clip.record.video_uri[-12:] for clip in clips] == ["demo_0/front", "demo_2/front"]
    assert [(row.video_uri[-6:], row.reason) for row in rejects] == [("demo_1", "does_not_decode")]


@pytest.mark.parametrize("link", ["hard", "soft"])
def test_pictures_of_another_trajectory_never_get_these_actions(tmp_path, link):
    def write(file):
        write_demo(file, "data/demo_0", 0)
        write_demo(file, "data/demo_1", 1)
        for name, target in (("parent", "/data"), ("previous", "/data/demo_1")):
            to = file[target] if link == "hard" else h5py.SoftLink(target)
            file[f"data/demo_0/{name}"] = to

    assert of_file(tmp_path, write) == (["demo_0/front", "demo_1/front"], [])


def test_a_link_inside_of_the_file_is_followed(tmp_path):
    def write(file):
        write_demo(file, "data/demo_0")
        file["pool"] = numbered(20)
        file["data/demo_0/obs/wrist"] = h5py.SoftLink("/pool")
        file["data/demo_0/obs/top"] = h5py.SoftLink("/pool_of_yesterday")

    found, (reject,) = of_file(tmp_path, write)
    assert found == ["demo_0/front", "demo_0/wrist"]
    assert (reject.video_uri[-10:], reject.reason) == ("demo_0/top", "does_not_decode")


def test_names_that_are_not_utf8_are_read(tmp_path):
    def write(file):
        group = file.create_group(b"data/demo_\xe9")
        group[b"obs/cam\xff"] = numbered(20)
        group["actions"] = actions_of(0)

    assert of_file(tmp_path, write) == (["demo_\\xe9/cam\\xff"], [])


def test_an_external_link_with_a_name_that_is_not_utf8_is_seen(tmp_path):
    def write(file):
        write_demo(file, "data/demo_0")
        file[b"data/demo_\xe9"] = h5py.ExternalLink("/etc/passwd", "x")

    found, (reject,) = of_file(tmp_path, write)
    assert (found, reject.reason) == ([], "does_not_decode")
    assert "lies in another file" in reject.detail


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("wrist", numbered(20)[..., 0]),
        ("wrist", numbered(20)[..., :1]),
        ("wrist", np.concatenate([numbered(20)] * 2, axis=-1)[..., :4]),
        ("wrist", numbered(20).transpose(0, 3, 1, 2)),
        ("wrist_image", (numbered(20) / 255).astype(np.float32)),
    ],
    ids=["grey", "one channel", "four channels", "channels first", "floats"],
)
def test_pictures_of_another_form_are_said(tmp_path, name, array):
    def write(file):
        write_demo(file, "0")
        file[f"0/obs/{name}"] = array

    found, (reject,) = of_file(tmp_path, write)
    assert (found, reject.reason) == (["0/front"], "no_video_stream")
    assert reject.detail.startswith(f"obs/{name} is {array.dtype} {list(array.shape)}, pictures")


def test_an_unknown_compression_is_named(tmp_path):
    """Without it, every frame was a reject of its own."""

    def write(file):
        write_demo(file, "0")
        kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kept.set_chunk((4, 32, 64, 3))
        kept.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((20, 32, 64, 3))
        h5py.h5d.create(file["0/obs"].id, b"wrist", h5py.h5t.NATIVE_UINT8, space, kept)

    found, (reject,) = of_file(tmp_path, write)
    assert (found, reject.reason) == (["0/front"], "unsupported_codec")
    assert "filter 32001" in reject.detail


def test_a_truncated_file_is_called_so(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "x") as file:
        write_demo(file, "0")
    path.write_bytes(path.read_bytes()[:-1])
    _, (reject,) = go_through(replace(CFG, source=str(path)))
    assert reject.reason == "truncated"


@pytest.mark.parametrize("rate", ["1e-9", "1e9", "NaN", '"fast"'])
def test_an_impossible_rate_in_the_file_is_not_taken(tmp_path, rate):
    def write(file):
        write_demo(file, "data/demo_0")
        file["data"].attrs["env_args"] = f'{{"env_kwargs": {{"control_freq": {rate}}}}}'

    assert of_file(tmp_path, write) == (["demo_0/front"], [])


def test_links_in_circles_end(tmp_path):
    with h5py.File(tmp_path / "a.h5", "x") as file:
        for name in "abcdefgh":
            file[f"groups/{name}/again"] = h5py.SoftLink("/groups")
        assert trajectory_names(h5py, file) == ["groups"]
        assert cameras(h5py, file["groups"], None) == []
