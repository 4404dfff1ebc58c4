"""HDF5 in the layout of dunnolab/laom, written here as its collection script writes it."""

import builtins
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.preprocess.clip.labels.read import ASSUMED_FPS
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.sources.hdf5 import trajectories as hdf5
from lafp import storage
from lafp.config import ConfigError
from lafp.video import decode_clip
from tests.labeled_source import CFG, go_through, select
from tests.synthetic_video import moving_square, number_of, numbered

h5py = pytest.importorskip("h5py")


def write(path, num_trajectories=12, num_steps=20):
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "x", track_order=True) as file:
        file.attrs["img_hw"] = 32
        for i in range(num_trajectories):
            group = file.create_group(str(i))
            obs = numbered(num_steps) if i == 0 else moving_square(num_steps, 32, 64, seed=i)
            group.create_dataset("obs", data=obs)
            group.create_dataset("actions", data=actions_of(i, num_steps))
            group.create_dataset("states", data=2 * actions_of(i, num_steps))
            group.attrs["traj_return"] = 1.0
    return path


def actions_of(trajectory: int, num_steps: int = 20) -> np.ndarray:
    rows = np.arange(num_steps, dtype=np.float32)
    return np.stack([rows, rows + 100 * trajectory], axis=1)


def outside(file, kind: str, secret: str) -> None:
    """Puts content of another file among the actions of the first trajectory."""
    group = file["0"]
    del group["actions"]
    if kind == "external storage":
        group.create_dataset("actions", (20, 2), np.float32, external=[(secret, 0, 160)])
    elif kind == "external link":
        group["actions"] = h5py.ExternalLink(secret, "actions")
    else:
        layout = h5py.VirtualLayout((20, 2), np.float32)
        layout[:] = h5py.VirtualSource(secret, "actions", (20, 2))
        group.create_virtual_dataset("actions", layout)


@pytest.mark.parametrize("kind", ["external storage", "external link", "virtual dataset"])
def test_the_content_of_other_files_is_not_read(tmp_path, kind):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "x") as file:
        file["actions"] = np.ones((20, 2), np.float32)
    with h5py.File(write(tmp_path / "set/a.hdf5"), "r+") as file:
        outside(file, kind, str(secret))
    clips, rejects = go_through(replace(CFG, source=str(tmp_path / "set")))
    assert not clips
    assert [reject.reason for reject in rejects] == ["does_not_decode"]
    assert "lies in another file" in rejects[0].detail


@pytest.mark.parametrize("where", ["local", "pieces", "s3"])
def test_every_trajectory_with_its_actions(tmp_path, where, request, monkeypatch):
    path = write(tmp_path / "set/cheetah.hdf5")
    source = str(path.parent)
    if where == "pieces":
        monkeypatch.setattr(hdf5, "_ITEM_BYTES", path.stat().st_size // 5)
        items = list(hdf5.Hdf5().list_items(source, None))
        assert len(items) in (5, 6)
        assert sum(item.num_bytes for item in items) <= path.stat().st_size
    if where == "s3":
        source = storage.join(request.getfixturevalue("s3_bucket"), "set")
        storage.write_bytes(storage.join(source, path.name), path.read_bytes())
    clips, rejects = go_through(replace(CFG, source=source))
    assert rejects == []
    assert [int(clip.record.video_uri.rpartition("#")[2]) for clip in clips] == list(range(12))
    for i, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.labels.true_action, actions_of(i))
        np.testing.assert_array_equal(clip.labels.state, 2 * actions_of(i))
        assert clip.record.fps == ASSUMED_FPS
    assert [number_of(frame) for frame in decode_clip(clips[0].video)] == list(range(20))


def test_what_cannot_be_used_is_a_reject(tmp_path):
    path = write(tmp_path / "set/a.h5", 3)
    with h5py.File(path, "a") as file:
        del file["0/actions"]
        del file["1/obs"]
        file["1/obs"] = np.zeros((20, 3, 32, 64), np.uint8)
    (tmp_path / "set/b.h5").write_bytes(b"no HDF5")
    h5py.File(tmp_path / "set/c.h5", "x").close()
    selection = select(replace(CFG, source=str(path.parent)), tmp_path / "parts")
    assert [clip.record.video_uri[-6:] for clip in selection.clips] == ["a.h5#2"]
    rejects = [(row.video_uri.rpartition("/")[2], row.reason) for row in selection.rejects]
    assert rejects == [
        ("a.h5#0", "no_labels"),
        ("a.h5#1", "no_video_stream"),
        ("b.h5", "does_not_decode"),
        ("c.h5", "no_video_stream"),
    ]


def test_an_array_beyond_the_memory_limit_is_rejected_before_it_is_read(tmp_path):
    path = write(tmp_path / "set/a.h5", 1)
    labels = replace(CFG.labels, max_array_bytes=10_000)
    _, rejects = go_through(replace(CFG, source=str(path), labels=labels))
    assert [reject.reason for reject in rejects] == ["too_many_bytes"]


def test_a_file_on_s3_beyond_the_limit_is_not_fetched(tmp_path, s3_bucket):
    path = write(tmp_path / "set/a.h5", 2)
    storage.write_bytes(storage.join(s3_bucket, "a.h5"), path.read_bytes())
    limits = LimitsConfig(max_bytes=path.stat().st_size - 1)
    _, rejects = go_through(replace(CFG, source=s3_bucket, limits=limits))
    assert [(r.reason, r.detail) for r in rejects] == [
        ("too_many_bytes", f"{path.stat().st_size} bytes")
    ]


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "set/a.h5", 1)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'lafp\[hdf5\]'"):
        go_through(replace(CFG, source=str(path)))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def check_numbers(clips):
    for clip in clips:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)


def test_robomimic_files_are_read(tmp_path):
    path = tmp_path / "low_dim.hdf5"
    with h5py.File(path, "x") as file:
        file.create_group("data").attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
        file["mask/train"] = np.array([b"demo_0"])
        for demo in (0, 2, 10):
            group = file.create_group(f"data/demo_{demo}")
            group["obs/agentview_image"] = numbered(20 + demo)[demo:]
            group["obs/robot0_eye_in_hand_image"] = moving_square(20, 32, 64, seed=demo)
            group["obs/agentview_depth"] = np.zeros((20, 32, 64, 1), np.float32)
            group["obs/robot0_eef_pos"] = np.full((20, 3), demo, np.float32)
            group["obs/robot0_gripper_qpos"] = np.zeros((20, 2), np.float32)
            group["next_obs/agentview_image"] = numbered(20)
            group["actions"] = actions_of(demo) + np.array([demo, 0])
            group["states"] = np.ones((20, 5))
    labels = replace(CFG.labels, state_parts=("obs/robot0_eef_pos", "obs/robot0_gripper_qpos"))
    clips, rejects = go_through(replace(CFG, source=str(path), labels=labels))
    assert [clip.record.video_uri.rpartition("#")[2] for clip in clips[:3]] == [
        "demo_0/agentview_image",
        "demo_0/robot0_eye_in_hand_image",
        "demo_2/agentview_image",
    ]
    assert (len(clips), [reject.reason for reject in rejects]) == (6, 3 * ["depth"])
    assert len({clip.record.episode_id for clip in clips}) == 3
    assert {clip.record.fps for clip in clips} == {20.0}
    assert {clip.labels.state.shape for clip in clips} == {(20, 5)}
    check_numbers([clip for clip in clips if "agentview" in clip.record.video_uri])


def test_cameras_and_trajectories_of_one_name_are_told_apart(tmp_path):
    path = tmp_path / "twice.h5"
    with h5py.File(path, "x") as file:
        for seed, name in enumerate(("demo_0", "data/demo_0")):
            group = file.create_group(name)
            group["obs/front"] = moving_square(20, 32, 64, seed=3 * seed)
            group["images/front"] = moving_square(20, 32, 64, seed=3 * seed + 1)
            group["observations/images/front"] = moving_square(20, 32, 64, seed=3 * seed + 2)
            group["actions"] = actions_of(seed)
    cfg = replace(CFG, source=str(path))
    selected = select(cfg, tmp_path / "work")
    uris = [video.uri.rpartition("#")[2] for video in selected.videos]
    expected = ["demo_0/front", *(f"demo_0/front@{number}" for number in range(1, 6))]
    assert (uris, selected.rejects) == (expected, ())
    assert {clip.record.video_uri for clip in selected.clips} == {v.uri for v in selected.videos}
    # The same again: labels, masks and takedowns name a video by its URI.
    clips, _ = go_through(cfg)
    ids = {clip.record.video_uri: clip.record.video_id for clip in clips}
    assert ids == {clip.record.video_uri: clip.record.video_id for clip in selected.clips}
    assert len(set(ids.values())) == 6


@pytest.mark.parametrize("form", ["raw", "padded", "bytes"])
def test_aloha_files_are_read(tmp_path, form):
    for episode in (0, 1):
        pictures = numbered(20 + episode)[episode:]
        encoded = [np.frombuffer(jpeg(frame), np.uint8) for frame in pictures]
        with h5py.File(tmp_path / f"episode_{episode}.hdf5", "x") as file:
            file.attrs["sim"] = False
            file["action"] = actions_of(episode) + np.array([episode, 0])
            file["observations/qpos"] = np.full((20, 14), episode, np.float32)
            file["observations/qvel"] = np.zeros((20, 14), np.float32)
            images = file.create_group("observations/images")
            if form == "raw":
                images["cam_high"] = pictures
            elif form == "padded":
                longest = max(map(len, encoded))
                padded = [np.pad(data, (0, longest - len(data))) for data in encoded]
                images["cam_high"] = np.stack(padded)
            else:
                images.create_dataset("cam_high", (20,), dtype=h5py.vlen_dtype(np.uint8))
                for t, data in enumerate(encoded):
                    images["cam_high"][t] = data
    labels = replace(CFG.labels, fps=50.0)
    clips, rejects = go_through(replace(CFG, source=str(tmp_path), labels=labels))
    names = [clip.record.video_uri.rpartition("/")[2] for clip in clips]
    assert (names, rejects) == (
        ["episode_0.hdf5#cam_high", "episode_1.hdf5#cam_high"],
        [],
    )
    assert [clip.labels.state[0, 0] for clip in clips] == [0, 1]
    check_numbers(clips)


def test_a_raw_droid_episode_says_what_is_missing(tmp_path):
    with h5py.File(tmp_path / "trajectory.h5", "x") as file:
        file["action/joint_position"] = np.zeros((20, 7))
        file["observation/robot_state/joint_positions"] = np.zeros((20, 7))
    _, (reject,) = go_through(replace(CFG, source=str(tmp_path)))
    assert (reject.video_uri[-13:], reject.reason) == ("trajectory.h5", "no_video_stream")
    for word in ("action/joint_position float64 [20, 7]", "recordings/MP4", "RLDS"):
        assert word in reject.detail


def test_one_frame_more_than_actions_and_bad_rows(tmp_path):
    with h5py.File(tmp_path / "a.h5", "x") as file:
        file["0/obs"] = numbered(21)
        file["0/actions"] = actions_of(0)
        file["0/actions"][7] = np.nan
        file["0/states"] = np.zeros((21, 2))
    clips, rejects = go_through(replace(CFG, source=str(tmp_path)))
    assert [clip.record.num_frames for clip in clips] == [7, 13]
    for clip in clips:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:-1, 0], numbers[:-1])
    assert [(row.reason, row.detail) for row in rejects] == [
        ("bad_labels", "row 7: action[0] is nan")
    ]


def test_a_broken_part_of_the_file_costs_its_pictures(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "x") as file:
        file["0/actions"] = actions_of(0)
        pictures = file.create_dataset(
            "0/obs", data=numbered(20), chunks=(2, 32, 64, 3), compression="gzip"
        )
        at = pictures.id.get_chunk_info(4).byte_offset  # frames 8 and 9
    data = bytearray(path.read_bytes())
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    clips, rejects = go_through(replace(CFG, source=str(path)))
    assert [clip.record.num_frames for clip in clips] == [8, 10]
    assert {row.reason for row in rejects} == {"damaged"}
    check_numbers(clips)


@pytest.mark.parametrize("name", ["extra", "actions"])
def test_an_array_of_a_type_that_numpy_does_not_have_costs_at_most_its_trajectory(tmp_path, name):
    path = write(tmp_path / "set/a.h5", 2)
    with h5py.File(path, "a") as file:
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_ebias(100_000)
        if name in file["0"]:
            del file["0"][name]
        space = h5py.h5s.create_simple((20, 2))
        h5py.h5d.create(file["0"].id, name.encode(), kind, space)
    clips, rejects = go_through(replace(CFG, source=str(path)))
    if name == "extra":
        assert (len(clips), rejects) == (2, [])
    else:
        (reject,) = rejects
        assert len(clips) == 1 and reject.reason == "no_labels"
        assert "actions (which cannot be opened)" in reject.detail
