"""Shards and latents as a LeRobot v3.0 dataset: its files, and what our own reader makes of it."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.sources.lerobot.dataset import find_datasets
from data_pipelines.to_lerobot import video_files
from data_pipelines.to_lerobot.job import Written, to_lerobot
from lafp import storage
from lafp.config import ConfigError
from lafp.data.stored_latents import ClipReject
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import read_rows, write_rows
from lafp.video import decode_clip
from tests.data_pipelines.to_lerobot.lerobot_run import (
    clips_of,
    write_dataset,
    write_run,
    z_of,
)
from tests.labeled_source import CFG, go_through
from tests.synthetic_latents import write_latents
from tests.synthetic_shards import SyntheticClip, moving_dot, write_clips, write_shard_set

ROOT = Path(__file__).parents[3]
CAMERA = "observation.images.main"
SIZE = ResizeConfig(width_px=32, height_px=32)


def index_of(out: Path) -> list[dict]:
    """Rows of ``meta/episodes``, in the order of the files."""
    paths = sorted((out / "meta/episodes").rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def rows_of(out: Path, episode: dict) -> list[dict]:
    name = f"chunk-{episode['data/chunk_index']:03d}/file-{episode['data/file_index']:03d}.parquet"
    rows = pq.read_table(out / "data" / name).to_pylist()
    return [row for row in rows if row["episode_index"] == episode["episode_index"]]


def pictures_of(out: Path, episode: dict) -> np.ndarray:
    """The frames between the time stamps of an episode, decoded as clips are."""
    chunk, file = (episode[f"videos/{CAMERA}/{key}_index"] for key in ("chunk", "file"))
    path = out / "videos" / CAMERA / f"chunk-{chunk:03d}/file-{file:03d}.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times_s = [float(p.pts * stream.time_base) for p in container.demux(stream) if p.size]
    low, high = (episode[f"videos/{CAMERA}/{end}_timestamp"] for end in ("from", "to"))
    wanted = [i for i, time_s in enumerate(times_s) if low - 1e-6 < time_s < high - 1e-6]
    np.testing.assert_allclose(np.diff(times_s), 0.1, atol=1e-9)
    return decode_clip(path.read_bytes())[wanted]


def digest(folder: Path) -> str:
    """Names and hashes of all files."""
    lines = [
        f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("stack", [1, 3])
def test_each_row_holds_frame_z_action_and_state_of_one_pair(tmp_path, stack):
    run, out = write_run(tmp_path / "run", stack), tmp_path / "set"
    clips = clips_of(run)
    num_rows = sum(len(clip.frames) - stack for clip in clips.values())
    assert write_dataset(run, out) == Written(num_episodes=12, num_frames=num_rows, rejects={})
    index = index_of(out)
    assert [row["clip_id"] for row in index[10:]] == [
        clip_id for clip_id, clip in clips.items() if clip.split == "val"
    ]
    first = 0
    for episode in index:
        clip, rows = clips[episode["clip_id"]], rows_of(out, episode)
        length = len(clip.frames) - stack
        assert episode["length"] == len(rows) == length
        assert (episode["dataset_from_index"], episode["dataset_to_index"]) == (
            first,
            first + length,
        )
        assert [row["index"] for row in rows] == list(range(first, first + length))
        assert [row["frame_index"] for row in rows] == list(range(length))
        np.testing.assert_allclose([row["timestamp"] for row in rows], np.arange(length) / 10)
        shown = clip.frames[stack - 1 : -1]
        np.testing.assert_array_equal(pictures_of(out, episode), shown)
        pairs = zip(shown, clip.frames[stack:], strict=True)
        np.testing.assert_array_equal(
            [row["latent_action"] for row in rows], [z_of(*pair) for pair in pairs]
        )
        for name, array in (
            ("action", clip.labels.true_action),
            ("observation.state", clip.labels.state),
        ):
            np.testing.assert_array_equal([row[name] for row in rows], array[stack - 1 : -1])
        first += length


@pytest.mark.parametrize("stack", [1, 3])
def test_our_reader_reads_it_back(tmp_path, stack):
    run, out = write_run(tmp_path / "run", stack, frames=(9, 14)), tmp_path / "set"
    write_dataset(run, out)
    clips, index = clips_of(run), index_of(out)
    for key, dim in (("action", 2), ("latent_action", 3)):
        cfg = replace(CFG, source=str(out), resize=SIZE, labels=LabelsConfig(action_key=key))
        read, rejects = go_through(cfg)
        assert (len(read), rejects) == (12, [])
        for clip in read:
            episode = index[int(clip.record.video_uri.rpartition("#")[2])]
            original = clips[episode["clip_id"]]
            shown = original.frames[stack - 1 : -1]
            frames = decode_clip(clip.video)
            assert frames.shape == shown.shape
            assert np.abs(frames.astype(float) - shown).mean() < 3
            assert clip.labels.true_action.shape == (len(shown), dim)
            rows = [row[key] for row in rows_of(out, episode)]
            np.testing.assert_array_equal(clip.labels.true_action, np.float32(rows))
            np.testing.assert_array_equal(clip.labels.state, original.labels.state[stack - 1 : -1])


def test_info_tasks_and_statistics_say_what_the_rows_hold(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "set"
    write_dataset(run, out)
    info = json.loads((out / "meta/info.json").read_text())
    rows = [row for episode in index_of(out) for row in rows_of(out, episode)]
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10
    assert info["splits"] == {"train": "0:10", "val": "10:12"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (12, len(rows), 1)
    assert info["features"]["latent_action"] == {"dtype": "float32", "shape": [3], "names": None}
    assert info["features"][CAMERA]["shape"] == [32, 32, 3]
    assert pq.read_table(out / "meta/tasks.parquet").to_pandas().task_index.to_dict() == {
        "synthetic": 0
    }
    statistics = json.loads((out / "meta/stats.json").read_text())
    assert set(statistics) == set(info["features"])
    for name in ("latent_action", "action", "observation.state"):
        values = np.array([row[name] for row in rows])
        found = statistics[name]
        np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found["std"], values.std(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found["min"], values.min(0))
        np.testing.assert_allclose(found["max"], values.max(0))
        expected = np.quantile(values, 0.5, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(found["q50"], expected, rtol=2e-3)
        assert found["count"] == [len(rows)]
    pictures = np.concatenate([clip.frames[:-1] for clip in clips_of(run).values()]) / 255
    found = np.array(statistics[CAMERA]["mean"])
    assert found.shape == (3, 1, 1)
    np.testing.assert_allclose(found.ravel(), pictures.mean((0, 1, 2)), rtol=0.1)


def test_z_may_be_the_action_and_every_episode_have_a_task(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "set"
    write_dataset(run, out, key="action", task="move the dot")
    episode = index_of(out)[0]
    row = rows_of(out, episode)[0]
    clip = clips_of(run)[episode["clip_id"]]
    np.testing.assert_array_equal(row["action"], z_of(*clip.frames[:2]))
    np.testing.assert_array_equal(row["true_action"], clip.labels.true_action[0])
    assert episode["tasks"] == ["move the dot"]


def test_videos_without_labels_have_z_and_pictures(tmp_path):
    run, out = write_run(tmp_path / "run", has_labels=False, has_state=False), tmp_path / "set"
    write_dataset(run, out)
    features = json.loads((out / "meta/info.json").read_text())["features"]
    assert not {"action", "observation.state"} & set(features)
    assert len(rows_of(out, index_of(out)[0])[0]["latent_action"]) == 3


def test_discrete_actions_and_conditions_are_read_back(tmp_path):
    run, out = RunDir(str(tmp_path / "run")), tmp_path / "set"
    clips = [
        SyntheticClip(
            frames=moving_dot(9, seed, 32)[0],
            true_action=np.arange(9) % 4,
            condition=np.float32([seed, 1]),
            split="train",
        )
        for seed in range(4)
    ]
    write_clips(Path(run.stage("shards/videos").uri), clips, 4, seed=0, max_action=1.0)
    write_latents(run, "videos", "videos", z_of)
    write_dataset(run, out)
    row = rows_of(out, index_of(out)[2])[5]
    assert (row["action"], row["condition"]) == (5 % 4, [2, 1])
    read, rejects = go_through(replace(CFG, source=str(out), resize=SIZE))
    assert rejects == []
    for clip in read:
        np.testing.assert_array_equal(clip.labels.true_action, np.arange(8) % 4)


def test_files_end_at_their_limit_and_nothing_is_lost(tmp_path, monkeypatch):
    run, out = write_run(tmp_path / "run"), tmp_path / "set"
    monkeypatch.setattr(video_files, "_MAX_FILE_S", 2.0)
    write_dataset(run, out)
    clips = clips_of(run)
    assert len(list((out / "videos").rglob("*.mp4"))) > 3
    for episode in index_of(out):
        shown = clips[episode["clip_id"]].frames[:-1]
        np.testing.assert_array_equal(pictures_of(out, episode), shown)


def test_clips_that_cannot_be_episodes_are_rows_with_a_reason(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "set"
    shards = Path(run.stage("shards/videos").uri)
    clip_ids = list(clips_of(run))
    unlabeled = ClipReject(
        clip_id=clip_ids[3], video_id="v", shard="s", reason="not_finite", detail="NaN"
    )
    write_rows(run.stage("latents/videos").path("rejects.parquet"), ClipReject, [unlabeled])
    entry = json.loads((shards / "train-000001.json").read_text())["clips"][1]
    tar = shards / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[entry["video_offset"] + 100] ^= 1
    tar.write_bytes(data)
    (shards / "val-000003.tar").unlink()
    made = write_dataset(run, out)
    assert made is not None
    assert made.num_episodes == 12 - 4
    assert made.rejects == {"checksum": 1, "missing": 2, "not_finite": 1}
    rows = {row["clip_id"]: row for row in read_rows(str(out / "rejects.parquet"))}
    assert rows[clip_ids[3]]["detail"] == "NaN"
    assert rows[entry["clip_id"]]["reason"] == "checksum"
    assert [row["episode_index"] for row in index_of(out)] == list(range(8))


def test_an_interrupted_dataset_is_none_and_is_written_anew(tmp_path):
    run = write_run(tmp_path / "run")
    write_dataset(run, tmp_path / "whole")
    out = tmp_path / "killed"
    code = (
        "import os, signal, sys\n"
        "from data_pipelines.to_lerobot import dataset_files\n"
        "from lafp.runs.run_dir import RunDir\n"
        "from tests.data_pipelines.to_lerobot.lerobot_run import write_dataset\n"
        "upload = dataset_files.storage.upload\n"
        "def killed(path, uri):\n"
        "    upload(path, uri)\n"
        "    if '/data/' in uri:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "dataset_files.storage.upload = killed\n"
        "write_dataset(RunDir(sys.argv[1]), sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, run.uri, str(out)], cwd=ROOT, timeout=120)
    assert done.returncode == -9
    assert list(out.rglob("*.mp4")) and not find_datasets(str(out))
    (out / f"videos/{CAMERA}/chunk-000/file-007.mp4").write_bytes(b"of the killed one")
    assert write_dataset(run, out) is not None
    assert digest(out) == digest(tmp_path / "whole")
    assert write_dataset(run, out) is None


def test_a_folder_with_anything_else_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        write_dataset(run, tmp_path / "full")
    assert (tmp_path / "full/photo.jpg").read_text() == "mine"
    write_dataset(run, tmp_path / "set")
    with pytest.raises(ConfigError, match="holds another dataset"):
        write_dataset(run, tmp_path / "set", task="another")


def test_latents_of_other_shards_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    other = write_shard_set(tmp_path / "other", seed=5)
    with pytest.raises(ConfigError, match="other shards"):
        to_lerobot(other, run.stage("latents/videos").uri, str(tmp_path / "x"), "z", None, print)


def test_clips_of_several_rates_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    path = Path(run.stage("shards/videos").path("clips/part-00000.parquet"))
    table = pq.read_table(path)
    rates = table["fps"].to_pylist()
    at = table.column_names.index("fps")
    pq.write_table(table.set_column(at, "fps", [[25.0, *rates[1:]]]), path)
    with pytest.raises(ConfigError, match=r"2 rates: 10 \(11\), 25 \(1\).*clip\.fps=10"):
        write_dataset(run, tmp_path / "x")


def test_it_is_written_to_s3_and_from_there(tmp_path, s3_bucket):
    run = write_run(tmp_path / "run")
    write_dataset(run, tmp_path / "local")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            name = str(path.relative_to(tmp_path / "run"))
            storage.write_bytes(storage.join(s3_bucket, "run", name), path.read_bytes())
    write_dataset(RunDir(storage.join(s3_bucket, "run")), storage.join(s3_bucket, "set"))
    storage.download_folder(storage.join(s3_bucket, "set"), tmp_path / "fetched")
    assert digest(tmp_path / "fetched") == digest(tmp_path / "local")
