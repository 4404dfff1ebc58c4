"""LeRobot v3.0: small datasets written after the public format."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.rows import EncodedClip
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from lafp import storage
from lafp.config import ConfigError
from lafp.http.host_gate import HostGate
from lafp.video import decode_clip
from tests.labeled_source import CFG, go_through, select
from tests.synthetic_video import moving_square, number_of, numbered, write_video

CAMERAS = ("observation.images.front", "observation.images.wrist")
LENGTHS = [20, 33, 27, 40]
# Episodes 0 to 2 lie in the first file of each kind, episode 3 in the second.
FILES = [0, 0, 0, 1]
FPS = 10


def actions_of(episode: int, first_number: int = 0) -> np.ndarray:
    """The first column counts on over the episodes of a file, like the pictures of the front."""
    first = first_number + sum(
        n for n, file in zip(LENGTHS[:episode], FILES, strict=False) if file == FILES[episode]
    )
    rows = np.arange(first, first + LENGTHS[episode], dtype=np.float32)
    return np.stack([rows, rows + 1000 * episode], axis=1)


def upload(folder, bucket):
    uri = storage.join(bucket, "some/set")
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(uri, str(path.relative_to(folder))), path.read_bytes())
    return uri


def write_dataset(folder, first_number=0):
    features = {key: {"dtype": "video"} for key in CAMERAS} | {"action": {"dtype": "float32"}}
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    rows = []
    for episode, (length, file) in enumerate(zip(LENGTHS, FILES, strict=True)):
        before = sum(LENGTHS[i] for i in range(episode) if FILES[i] == file)
        row = {"episode_index": episode, "length": length, "tasks": ["do it"]}
        row |= {"data/chunk_index": 0, "data/file_index": file, "dataset_from_index": 0}
        for camera in CAMERAS:
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            row[f"videos/{camera}/from_timestamp"] = before / FPS
            row[f"videos/{camera}/to_timestamp"] = (before + length) / FPS
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    for file in (0, 1):
        episodes = [i for i in range(len(LENGTHS)) if FILES[i] == file]
        table = {
            "action": [row for i in episodes for row in actions_of(i, first_number)],
            "observation.state": [row * 2 for i in episodes for row in actions_of(i)],
            "timestamp": [np.float32(t / FPS) for i in episodes for t in range(LENGTHS[i])],
            "episode_index": [i for i in episodes for _ in range(LENGTHS[i])],
        }
        pq.write_table(pa.table(table), folder / f"data/chunk-000/file-{file:03d}.parquet")
        total = sum(LENGTHS[i] for i in episodes)
        pictures = (
            numbered(total + first_number)[first_number:],
            moving_square(total, seed=file + first_number),
        )
        for camera, frames in zip(CAMERAS, pictures, strict=True):
            path = folder / "videos" / camera / f"chunk-000/file-{file:03d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames, fps=FPS, options={"crf": "12"})
    return folder


@pytest.mark.parametrize(
    "template",
    [
        "../outside/file-{file_index:03d}.mp4",
        "videos/{video_key}/../../../outside/file-{file_index:03d}.mp4",
        "videos/{video_key.__class__}/{file_index}.mp4",
        "videos/{file_index:099999999999d}.mp4",
        "videos/{unknown}.mp4",
    ],
)
def test_a_path_template_that_leads_out_or_is_none_is_an_error(tmp_path, template):
    folder = write_dataset(tmp_path / "set")
    (tmp_path / "outside").mkdir()
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"video_path": template}))
    with pytest.raises(
        ConfigError, match=r"is not as in v3\.0 of LeRobot's format: .*(leads out|template)"
    ):
        go_through(replace(CFG, source=str(folder)))


def test_a_camera_whose_name_leads_out_costs_itself(tmp_path):
    folder = write_dataset(tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["../.."] = {"dtype": "video"}
    (folder / "meta/info.json").write_text(json.dumps(info))
    index = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(index).to_pylist()
    for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
        for row in rows:
            row[f"videos/../../{key}"] = row[f"videos/{CAMERAS[0]}/{key}"]
    pq.write_table(pa.Table.from_pylist(rows), index)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == 8
    assert [row.reason for row in rejects] == 4 * ["bad_entry"]
    assert all("leads out of the dataset" in row.detail for row in rejects)


def test_half_of_a_surrogate_pair_in_a_name_costs_that_camera_or_is_a_config_error(tmp_path):
    folder = write_dataset(tmp_path / "set")
    cfg = replace(CFG, source=str(folder))
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["\ud800.depth"] = {"dtype": "video", "video.is_depth_map": True}
    (folder / "meta/info.json").write_text(json.dumps(info))
    assert all(item.uri.encode() for item in list_inputs(cfg))
    selected = select(cfg, tmp_path / "work")
    assert len(selected.clips) == 8
    assert [row.reason for row in selected.rejects] == ["depth"]
    # A parquet file has no column of this name, so the index does not describe the camera.
    info["features"]["observation.images.\ud800"] = {"dtype": "video"}
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=r"is not as in v3\.0 of LeRobot's format"):
        list(list_inputs(cfg))


def test_a_dataset_whose_files_are_links_is_read(tmp_path):
    """Hugging Face's cache keeps the files of a dataset elsewhere, and links to them."""
    real = write_dataset(tmp_path / "blobs")
    for path in filter(Path.is_file, real.rglob("*")):
        link = tmp_path / "set" / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    clips, rejects = go_through(replace(CFG, source=str(tmp_path / "set")))
    assert (len(clips), rejects) == (8, [])


@pytest.fixture(params=["local", "s3"])
def source(request, tmp_path):
    folder = write_dataset(tmp_path / "set")
    if request.param == "local":
        return str(folder)
    return upload(folder, request.getfixturevalue("s3_bucket"))


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_parent_folder_is_searched_for_datasets(tmp_path, where, request):
    for name, first in (("a/one", 0), ("a/two", 100), ("three", 200)):
        (tmp_path / "sets/a").mkdir(parents=True, exist_ok=True)
        write_dataset(tmp_path / "sets" / name, first_number=first)
    (tmp_path / "sets/README.md").write_text("not a dataset")
    source = str(tmp_path / "sets")
    if where == "s3":
        source = upload(tmp_path / "sets", request.getfixturevalue("s3_bucket"))
    clips, rejects = go_through(replace(CFG, source=source))
    assert (len(clips), rejects) == (3 * 8, [])
    assert len({clip.record.video_id for clip in clips}) == 3 * 8
    assert len({clip.record.episode_id for clip in clips}) == 3 * 4
    folders = {clip.record.video_uri.removeprefix(source).split("/videos/")[0] for clip in clips}
    assert folders == {"/a/one", "/a/two", "/three"}


def test_datasets_beside_another_format_are_read_and_so_is_the_other(tmp_path):
    write_dataset(tmp_path / "one")
    alone, _ = go_through(replace(CFG, source=str(tmp_path)))
    (tmp_path / "x.tfrecord").write_bytes(b"")
    clips, rejects = go_through(replace(CFG, source=str(tmp_path)))
    assert len(clips) == len(alone) > 0
    empty = ("no_frames", str(tmp_path / "x.tfrecord"))
    assert [(row.reason, row.video_uri) for row in rejects if "one" not in row.video_uri] == [empty]


def check_numbers(clips):
    """The front camera shows the first column of the actions."""
    fronts = [clip for clip in clips if CAMERAS[0] in clip.record.video_uri]
    for clip in fronts:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)
    assert fronts


def test_every_episode_comes_out_of_its_file(source):
    clips, rejects = go_through(replace(CFG, source=source))
    assert (len(clips), rejects) == (8, [])
    assert len({clip.record.video_id for clip in clips}) == 8
    assert len({clip.record.episode_id for clip in clips}) == 4
    for clip in clips:
        episode = int(clip.record.video_uri.rpartition("#")[2])
        np.testing.assert_array_equal(clip.labels.true_action, actions_of(episode))
        np.testing.assert_array_equal(clip.labels.state, 2 * actions_of(episode))
        assert (clip.record.start_s, clip.record.num_frames) == (0, LENGTHS[episode])
    check_numbers(clips)


def test_no_clip_goes_across_episodes_at_another_rate(tmp_path):
    folder = write_dataset(tmp_path / "set")
    cfg = replace(CFG, source=str(folder), clip=ClipConfig(fps=4.0, max_s=1.5, min_frames=2))
    clips, _ = go_through(cfg)
    check_numbers(clips)
    for clip in clips:
        episode = int(clip.record.video_uri.rpartition("#")[2])
        rows = clip.labels.true_action[:, 0]
        assert np.isin(rows, actions_of(episode)[:, 0]).all()


def test_the_seconds_add_up_and_cameras_share_splits(tmp_path):
    selection = select(
        replace(CFG, source=str(write_dataset(tmp_path / "set"))), tmp_path / "parts"
    )
    splits = {}
    for clip in selection.clips:
        splits.setdefault(clip.record.episode_id, set()).add(clip.record.split)
    assert [len(of_episode) for of_episode in splits.values()] == [1, 1, 1, 1]
    assert sum(video.duration_s for video in selection.videos) == pytest.approx(
        2 * sum(LENGTHS) / FPS
    )


def test_damage_stays_in_its_episode(tmp_path):
    folder = write_dataset(tmp_path / "set")
    path = folder / "videos" / CAMERAS[0] / "chunk-000/file-000.mp4"
    write_video(path, numbered(80), fps=FPS, options={"crf": "12", "g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    at = data.index(b"moov") // 2
    data[at : at + 60] = np.random.default_rng(0).bytes(60)
    path.write_bytes(data)
    selection = select(replace(CFG, source=str(folder)), tmp_path / "parts")
    assert {reject.reason for reject in selection.rejects} <= {"damaged", "too_short"}
    assert len({reject.video_uri for reject in selection.rejects}) in (1, 2)
    clips, _ = go_through(replace(CFG, source=str(folder)))
    check_numbers(clips)
    assert len({clip.record.video_uri for clip in clips}) >= 7


def test_missing_and_broken_files_are_rejects(tmp_path):
    folder = write_dataset(tmp_path / "set")
    (folder / "videos" / CAMERAS[1] / "chunk-000/file-000.mp4").unlink()
    (folder / "data/chunk-000/file-001.parquet").unlink()
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == 3
    assert [reject.reason for reject in rejects] == 5 * ["missing_file"]
    (folder / "data/chunk-000/file-001.parquet").write_bytes(b"PAR1")
    _, rejects = go_through(replace(CFG, source=str(folder)))
    assert sorted(r.reason for r in rejects) == 3 * ["missing_file"] + 2 * ["no_labels"]


def test_a_file_that_ends_too_early_keeps_what_is_there(tmp_path):
    folder = write_dataset(tmp_path / "set")
    path = folder / "videos" / CAMERAS[0] / "chunk-000/file-000.mp4"
    write_video(path, numbered(50), fps=FPS, options={"crf": "12"})
    _, rejects = go_through(replace(CFG, source=str(folder)))
    # Of episode 1 three tenths are missing, of episode 2 everything.
    assert [(r.video_uri[-1], r.reason) for r in rejects] == [
        ("1", "labels_mismatch"),
        ("2", "no_frames"),
    ]


def test_an_index_that_is_not_there_is_a_config_error(tmp_path):
    folder = write_dataset(tmp_path / "set")
    index = folder / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.table({"episode_index": [0]}), index)
    with pytest.raises(ConfigError, match=r"meta/episodes/.* is not as in v3.0"):
        go_through(replace(CFG, source=str(folder)))
    index.unlink()
    with pytest.raises(ConfigError, match="no episodes"):
        go_through(replace(CFG, source=str(folder)))


def rewrite_index(folder, change):
    """Applies ``change`` to the index, a list of rows."""
    index = folder / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(index).to_pylist())), index)


@pytest.mark.parametrize(
    ("column", "num_lost"),
    [
        ("episode_index", 2),
        ("data/file_index", 2),
        (f"videos/{CAMERAS[1]}/chunk_index", 1),
        (f"videos/{CAMERAS[1]}/file_index", 1),
    ],
)
@pytest.mark.parametrize("value", [None, 10.5])
def test_a_broken_row_of_the_index_costs_only_itself(tmp_path, column, num_lost, value):
    """A camera that an episode lacks has no file in the row."""
    folder = write_dataset(tmp_path / "set")
    before, _ = go_through(replace(CFG, source=str(folder)))
    lost = value if value is None or column != "episode_index" else float("nan")

    def change(rows):
        return [row | {column: lost if row["episode_index"] == 2 else row[column]} for row in rows]

    rewrite_index(folder, change)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == len(before) - num_lost
    assert {row.reason for row in rejects if "/meta/episodes/" in row.video_uri} == {"bad_entry"}
    assert sum("/meta/episodes/" in row.video_uri for row in rejects) == num_lost


def test_a_broken_file_of_the_index_costs_only_its_episodes(tmp_path):
    folder = write_dataset(tmp_path / "set")
    before, _ = go_through(replace(CFG, source=str(folder)))
    broken = folder / "meta/episodes/chunk-000/file-001.parquet"
    broken.write_bytes(b"PAR1 nothing PAR1")
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert len(clips) == len(before)
    assert [(row.video_uri, row.reason) for row in rejects] == [(str(broken), "bad_entry")]


def drifted(rows, by_s=0.004):
    """Every episode's end 4 ms later than the one before makes it."""
    for row in rows:
        for camera in CAMERAS:
            before = row["episode_index"] - FILES.index(FILES[row["episode_index"]])
            row[f"videos/{camera}/from_timestamp"] += before * by_s
            row[f"videos/{camera}/to_timestamp"] += (before + 1) * by_s
    return rows


@pytest.mark.parametrize("by_s", [0.04, -0.04])
def test_a_drifting_index_moves_no_frame(tmp_path, by_s):
    folder = write_dataset(tmp_path / "set")
    rewrite_index(folder, lambda rows: drifted(rows, by_s))
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert ([clip.record.num_frames for clip in clips], rejects) == (2 * LENGTHS, [])
    check_numbers(clips)


def test_an_episode_that_is_listed_twice_is_read_once(tmp_path):
    folder = write_dataset(tmp_path / "set")
    rewrite_index(folder, lambda rows: [*rows, rows[1]])
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert (len(clips), rejects) == (8, [])
    rewrite_index(folder, lambda rows: [*rows, rows[1] | {"length": 31}])
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    check_numbers(clips)
    assert len(clips) == 6
    assert {row.detail for row in rejects} == {"meta/episodes has 2 different rows of episode 1"}


def test_spans_that_overlap_are_rejects_that_name_both(tmp_path):
    folder = write_dataset(tmp_path / "set")

    def overlap(rows):
        for camera in CAMERAS:
            rows[1][f"videos/{camera}/from_timestamp"] -= 1.0
            rows[1][f"videos/{camera}/to_timestamp"] -= 1.0
        return rows

    rewrite_index(folder, overlap)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    check_numbers(clips)
    assert len(clips) == 4 and len(rejects) == 4
    assert all("episode 1" in row.detail and "episode 0" in row.detail for row in rejects)


def test_a_camera_of_pictures_in_the_rows_becomes_a_video_too(tmp_path):
    folder = write_dataset(tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"][CAMERAS[0]] = {"dtype": "image", "shape": [32, 64, 3]}
    (folder / "meta/info.json").write_text(json.dumps(info))
    for file, total in ((0, sum(LENGTHS[:3])), (1, LENGTHS[3])):
        path = folder / f"data/chunk-000/file-{file:03d}.parquet"
        cells = []
        for frame in numbered(total):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pq.read_table(path).append_column(CAMERAS[0], pa.array(cells)), path)
    clips, rejects = go_through(replace(CFG, source=str(folder)))
    assert (len(clips), rejects) == (8, [])
    assert len({clip.record.episode_id for clip in clips}) == 4
    check_numbers(clips)


def test_a_confined_process_reads_a_dataset_on_s3_as_this_one_does(source):
    cfg = replace(CFG, source=source)
    expected, rejects = go_through(cfg)
    with Sandbox(cfg, HostGate()) as sandbox:
        rows = [row for item in list_inputs(cfg) for row in sandbox.rows(item)]
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    assert [clip.record for clip in clips] == [clip.record for clip in expected]
    assert rejects == [] and len(clips) == 8 and all(clip.labels for clip in clips)
