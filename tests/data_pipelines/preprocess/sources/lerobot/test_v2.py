"""LeRobot v2.0 and v2.1: the real datasets, and small ones with what real ones get wrong."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.job import list_inputs
from lafp import storage
from lafp.config import ConfigError
from lafp.video import decode_clip
from tests.labeled_source import CFG, go_through, select
from tests.synthetic_video import moving_square, number_of, numbered, write_video

CAMERAS = ("observation.images.front", "observation.images.wrist")
FEATURES = {key: {"dtype": "video"} for key in CAMERAS} | {"action": {"dtype": "float32"}}


def actions_of(episode: int, num_rows: int = 30) -> np.ndarray:
    rows = np.arange(num_rows, dtype=np.float32)
    return np.stack([rows, rows + 1000 * episode, np.sin(rows)], axis=1)


def write_dataset(folder, num_episodes=3, num_rows=30, fps=10, features=FEATURES):
    """Episodes 5, 6, ... One camera shows the frame's number, the other something else."""
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v2.1", "total_episodes": 99, "fps": fps, "features": features}
    (folder / "meta/info.json").write_text(json.dumps(info))
    lines = [json.dumps({"episode_index": 5 + i, "length": num_rows}) for i in range(num_episodes)]
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    for episode in range(5, 5 + num_episodes):
        name = f"episode_{episode:06d}"
        action = actions_of(episode, num_rows)
        table = {
            "action": list(action),
            "observation.state": list(action[:, :2]),
            "timestamp": (np.arange(num_rows) / fps).astype(np.float32),
            "episode_index": np.full(num_rows, episode),
        }
        pq.write_table(pa.table(table), folder / f"data/chunk-000/{name}.parquet")
        pictures = numbered(num_rows), moving_square(num_rows, seed=episode)
        for camera, frames in zip(CAMERAS, pictures, strict=True):
            path = folder / "videos/chunk-000" / camera / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another crf, another file: equal files would be dropped.
            write_video(path, frames, fps=fps, options={"crf": str(episode)})
    return folder


@pytest.fixture(params=["local", "s3"])
def source(request, tmp_path):
    folder = write_dataset(tmp_path / "set")
    if request.param == "local":
        return str(folder)
    uri = storage.join(request.getfixturevalue("s3_bucket"), "some/set")
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(uri, str(path.relative_to(folder))), path.read_bytes())
    return uri


def test_cameras_share_the_episode_and_its_actions(source):
    clips, rejects = go_through(replace(CFG, source=source))
    assert (len(clips), rejects) == (6, [])
    assert len({clip.record.video_id for clip in clips}) == 6
    assert len({clip.record.episode_id for clip in clips}) == 3
    for clip in clips:
        episode = int(clip.record.video_uri[-5])
        np.testing.assert_array_equal(clip.labels.true_action, actions_of(episode))
        np.testing.assert_array_equal(clip.labels.state, actions_of(episode)[:, :2])
        assert (clip.record.start_s, clip.record.fps, clip.record.has_labels) == (0, 10, True)
        if CAMERAS[0] in clip.record.video_uri:
            numbers = [number_of(frame) for frame in decode_clip(clip.video)]
            np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)


@pytest.mark.parametrize("fps", [4.0, 5.0, 20.0])
def test_clips_of_another_rate_keep_actions_with_their_frames(tmp_path, fps):
    folder = write_dataset(tmp_path / "set", num_episodes=1)
    cfg = replace(CFG, source=str(folder), clip=ClipConfig(fps=fps, max_s=1.6, min_frames=4))
    clips, rejects = go_through(cfg)
    assert (len(clips), rejects) == (4, [])
    for clip in clips:
        if CAMERAS[0] in clip.record.video_uri:
            numbers = [number_of(frame) for frame in decode_clip(clip.video)]
            np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)


def test_the_cameras_of_an_episode_go_to_one_split(tmp_path):
    folder = write_dataset(tmp_path / "set", num_episodes=5)
    selection = select(replace(CFG, source=str(folder)), tmp_path / "parts")
    splits = {}
    for clip in selection.clips:
        splits.setdefault(clip.record.episode_id, set()).add(clip.record.split)
    assert len(splits) == 5
    assert all(len(of_episode) == 1 for of_episode in splits.values())
    assert set.union(*splits.values()) == {"train", "val"}


def test_missing_and_broken_files_are_rejects(tmp_path):
    folder = write_dataset(tmp_path / "set", num_episodes=4)
    (folder / "data/chunk-000/episode_000005.parquet").unlink()
    (folder / "data/chunk-000/episode_000006.parquet").write_bytes(b"PAR1 no more")
    (folder / f"videos/chunk-000/{CAMERAS[1]}/episode_000007.mp4").unlink()
    (folder / f"videos/chunk-000/{CAMERAS[1]}/episode_000008.mp4").write_bytes(b"<html>")
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == 2
    reasons = [reject.reason for reject in rejects]
    assert sorted(reasons) == 3 * ["missing_file"] + 2 * ["no_labels"] + ["not_a_video"]
    details = {reject.detail for reject in rejects}
    assert {"episode 5 has no parquet file", f"episode 7 has no video of {CAMERAS[1]}"} <= details


def test_a_dataset_that_cannot_be_used_says_why(tmp_path):
    action_only = write_dataset(tmp_path / "a", 1, features={"action": {"dtype": "float32"}})
    with pytest.raises(ConfigError, match="has no colour camera"):
        go_through(replace(CFG, source=str(action_only)))
    no_list = write_dataset(tmp_path / "b", 1)
    (no_list / "meta/episodes.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no meta/episodes.jsonl"):
        go_through(replace(CFG, source=str(no_list)))


def test_another_column_may_hold_the_actions(tmp_path):
    folder = write_dataset(tmp_path / "set", 1)
    labels = replace(CFG.labels, action_key="observation.state", state_key="action")
    clips, _ = go_through(replace(CFG, source=str(folder), labels=labels))
    np.testing.assert_array_equal(clips[0].labels.true_action, actions_of(5)[:, :2])
    labels = replace(CFG.labels, action_key="act")
    _, rejects = go_through(replace(CFG, source=str(folder), labels=labels))
    assert {reject.reason for reject in rejects} == {"no_labels"}
    assert rejects[0].detail.startswith("no column 'act' among action, observation.state")


def real_rows(path, column):
    return np.array(pq.read_table(path)[column].to_pylist(), np.float32)


@pytest.mark.parametrize(
    ("name", "fps", "frames", "num_missing"),
    [
        ("g1_pick_bottle", 30, [221, 277], 0),
        # Its info.json lists a second camera, of which no video exists.
        ("gr1_sim_picknplace", 20, [470, 412, 328], 3),
    ],
)
def test_the_real_datasets_keep_every_row(shared_videos, name, fps, frames, num_missing):
    folder = shared_videos / "labeled" / name
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert [clip.record.num_frames for clip in clips] == frames
    assert [reject.reason for reject in rejects] == num_missing * ["missing_file"]
    for clip in clips:
        table = folder / "data/chunk-000" / f"{clip.record.video_uri[-18:-4]}.parquet"
        np.testing.assert_array_equal(clip.labels.true_action, real_rows(table, "action"))
        np.testing.assert_array_equal(clip.labels.state, real_rows(table, "observation.state"))
        assert clip.record.fps == fps


def test_a_real_dataset_at_a_lower_rate(shared_videos):
    folder = shared_videos / "labeled/g1_pick_bottle"
    cfg = replace(CFG, source=str(folder), clip=ClipConfig(fps=10.0, max_s=60.0))
    clips, rejects = go_through(cfg)
    assert (len(clips), rejects) == (2, [])
    table = folder / "data/chunk-000/episode_000029.parquet"
    np.testing.assert_array_equal(clips[0].labels.true_action, real_rows(table, "action")[::3])


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_camera_of_pictures_in_the_rows_becomes_a_video_too(tmp_path):
    features = {
        CAMERAS[0]: {"dtype": "video", "shape": [32, 64, 3]},
        CAMERAS[1]: {"dtype": "image", "shape": [32, 64, 3]},
        "observation.images.depth": {
            "dtype": "video",
            "shape": [32, 64, 1],
            "info": {"video.is_depth_map": True},
        },
        "action": {"dtype": "float32", "shape": [3]},
    }
    folder = write_dataset(tmp_path / "set", 2, features=features)
    for episode in (5, 6):
        path = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        pictures = [{"bytes": png(frame), "path": "x.png"} for frame in numbered(30)]
        pictures[12] = {"bytes": pictures[12]["bytes"][:50], "path": "x.png"}
        table = pq.read_table(path).append_column(CAMERAS[1], pa.array(pictures))
        pq.write_table(table, path)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    in_rows = [clip for clip in clips if clip.record.video_uri.endswith(f"#{CAMERAS[1]}")]
    assert [clip.record.num_frames for clip in in_rows] == [12, 17, 12, 17]
    assert {clip.record.fps for clip in in_rows} == {10.0}
    assert len(clips) == 6 and len({clip.record.episode_id for clip in clips}) == 2
    for clip in clips:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)
    assert [(row.reason, row.video_uri.rpartition("#")[2]) for row in rejects] == [
        ("depth", "observation.images.depth"),
        ("damaged", CAMERAS[1]),
        ("damaged", CAMERAS[1]),
    ]


def test_an_episode_that_is_listed_twice_is_read_once(tmp_path):
    folder = write_dataset(tmp_path / "set", 2)
    lines = (folder / "meta/episodes.jsonl").read_text()
    (folder / "meta/episodes.jsonl").write_text(lines + lines)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert (len(clips), rejects) == (4, [])
    odd = json.dumps({"episode_index": 6, "length": 29})
    (folder / "meta/episodes.jsonl").write_text(lines + odd)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == 2
    assert {row.detail for row in rejects} == {
        "meta/episodes.jsonl lists episode 6 with lengths [30, 29]"
    }


@pytest.mark.parametrize(
    "line",
    [
        "{oops",
        "[1]",
        '"episode"',
        '{"length": 30}',
        '{"episode_index": null, "length": 30}',
        '{"episode_index": 9, "length": "thirty"}',
        '{"episode_index": 9, "length": NaN}',
        '{"episode_index": 1e999, "length": 30}',
        "[" * 100_000,
    ],
    ids=range(9),
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_broken_line_of_the_index_costs_only_itself(tmp_path, line, is_first):
    folder = write_dataset(tmp_path / "set", 1)
    index = folder / "meta/episodes.jsonl"
    good = index.read_text()
    index.write_text(f"{line}\n{good}" if is_first else f"{good}{line}\n")
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == 2
    number = 1 if is_first else 2
    assert [(r.video_uri, r.reason) for r in rejects] == [(f"{index}#{number}", "bad_entry")]
    index.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match="is not a list of episodes"):
        go_through(replace(CFG, source=str(folder)))


@pytest.mark.parametrize("text", ["[" * 100_000, "", "\ufeff{}", "{,}"], ids=range(4))
def test_an_info_file_that_is_no_json_is_one_line(tmp_path, text):
    folder = write_dataset(tmp_path / "set", 1)
    (folder / "meta/info.json").write_text(text)
    with pytest.raises(ConfigError, match=r"info.json is not valid JSON"):
        go_through(replace(CFG, source=str(folder)))


@pytest.mark.parametrize("dtype", ["video", "image"])
def test_half_of_a_surrogate_pair_in_a_name_costs_that_camera(tmp_path, dtype):
    name, depth = "observation.images.\ud800", {"dtype": "video", "video.is_depth_map": True}
    odd = {name: {"dtype": dtype}, f"{name}.depth": depth}
    folder = write_dataset(tmp_path / "set", num_episodes=1, features=FEATURES | odd)
    cfg = replace(CFG, source=str(folder))
    assert len([item.uri.encode() for item in list_inputs(cfg)]) == 4
    selected = select(cfg, tmp_path / "work")
    assert len(selected.clips) == 2
    found = {
        (row.reason, row.video_uri.count(r"observation.images.\ud800")) for row in selected.rejects
    }
    assert found == {("depth", 1), ("missing_file", 1)}


@pytest.mark.parametrize("fps", [10**400, float("nan"), float("inf"), -10, 0, "ten", None])
def test_a_rate_that_is_none_is_taken_from_the_video(tmp_path, fps):
    folder = write_dataset(tmp_path / "set", 1)
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"fps": fps}))
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert (len(clips), rejects) == (2, [])


def test_a_length_that_differs_is_a_mismatch(tmp_path):
    folder = write_dataset(tmp_path / "set", 1)
    (folder / "meta/episodes.jsonl").write_text('{"episode_index": 5, "length": 28}\n')
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert clips == []
    details = {row.detail for row in rejects}
    assert details == {"30 frames, 30 rows of labels, and its length is 28 in meta"}


def test_a_real_clock_in_timestamp_shifts_no_action(tmp_path):
    folder = write_dataset(tmp_path / "set", 1, num_rows=60)
    path = folder / "data/chunk-000/episode_000005.parquet"
    table = pq.read_table(path)
    stamps = np.arange(60) / 9.4 + 3 * (np.arange(60) > 40)  # and a pause
    at = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(at, "timestamp", pa.array(stamps)), path)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert (len(clips), rejects) == (2, [])
    (front,) = [clip for clip in clips if CAMERAS[0] in clip.record.video_uri]
    numbers = [number_of(frame) for frame in decode_clip(front.video)]
    np.testing.assert_array_equal(front.labels.true_action[:, 0], numbers)


@pytest.mark.parametrize(
    ("folder", "version"), [("meta", "v1.6"), ("meta_data", "v1.4"), ("meta", "v4.0")]
)
def test_another_version_is_named(tmp_path, folder, version):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "info.json").write_text(json.dumps({"codebase_version": version}))
    with pytest.raises(
        ConfigError, match=rf"LeRobot dataset {version}; supported are v2.0, v2.1 and v3.0"
    ):
        go_through(replace(CFG, source=str(tmp_path)))


def test_robots_of_different_sizes_are_known_before_decoding(tmp_path):
    """By their rows: what info.json declares is wrong in some datasets."""
    for name, size in (("robot_a", 3), ("robot_b", 3), ("robot_c", 2)):
        shapes = {"action": {"dtype": "float32", "shape": [7]}}
        folder = write_dataset(tmp_path / "sets" / name, 1, features=FEATURES | shapes)
        path = folder / "data/chunk-000/episode_000005.parquet"
        table = pq.read_table(path).drop_columns(["action"])
        pq.write_table(table.append_column("action", [list(actions_of(5)[:, :size])]), path)
    for path in (tmp_path / "sets").rglob("*.mp4"):
        path.unlink()  # it would be missed
    with pytest.raises(ConfigError) as caught:
        go_through(replace(CFG, source=str(tmp_path / "sets")))
    for word in ("robot_a has actions of 3 numbers", "robot_c has actions of 2 numbers"):
        assert word in str(caught.value)
    states = replace(CFG.labels, action_key="observation.state")
    _, rejects = go_through(replace(CFG, source=str(tmp_path / "sets"), labels=states))
    assert {row.reason for row in rejects} == {"missing_file"}
