import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.collect import (
    UNSEEN,
    Batch,
    CollectConfig,
    EpisodeRecord,
    batches,
    render_batch,
)
from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs
from lafp import storage
from lafp.config import load_config
from lafp.data.randomness import derive_seed
from lafp.envs.base import StepResult
from lafp.envs.procgen import ProcgenConfig
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.runs.run_dir import RunDir
from lafp.storage import strict_json
from lafp.video import VIDEO_DECODERS, decode_clip
from ray_jobs.preprocess import resolve

ROOT = Path(__file__).parents[2]
CFG = CollectConfig(
    env=SlalomConfig(distractors=True),
    num_episodes=7,
    num_labeled_episodes=3,
    num_labeled_val_episodes=2,
    episodes_per_task=3,
)


def test_batches_cover_every_episode_once():
    covered = [(batch.subset, n) for batch in batches(CFG) for n in range(batch.first, batch.last)]
    assert sorted(covered) == sorted(
        (subset, n)
        for subset in ("videos", "labeled", "labeled_val")
        for n in range(CFG.num_of(subset))
    )


def test_a_labeled_episode_replays_to_its_own_video(tmp_path):
    batch = Batch(subset="labeled", first=0, last=3)
    render_batch(CFG, batch, str(tmp_path))
    records = json.loads(storage.read_text(batch.record_uri(str(tmp_path))))
    for n, record in enumerate(records):
        frames = decode_clip((tmp_path / f"labeled/episode_{n:06d}.mp4").read_bytes())
        labels = np.load(tmp_path / f"labeled/episode_{n:06d}.npz", allow_pickle=False)
        assert len(frames) == len(labels["action"]) == len(labels["state"]) == record["num_frames"]
        assert (labels["action"].dtype, labels["state"].dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(labels["action"][-1], 0)
        assert labels["action_noise"].shape == labels["action"].shape
        assert labels["action_noise"].any() and not labels["action_noise"][-1].any()
        np.testing.assert_array_equal(labels["action_low"], [-1, -1])
        np.testing.assert_array_equal(labels["action_high"], [1, 1])
        env = Slalom(CFG.env)
        replayed = [env.reset(np.array([record["seed"]]))[0]]
        for action in labels["action"][:-1]:
            result = env.step(action[None])
            replayed.append(result.obs[0])
        assert result.success[0] and record["success"]
        np.testing.assert_array_equal(env.modes()[0], labels["mode"])
        # H.264 rounds, but keeps every pixel near its own value.
        error = np.abs(np.stack(replayed).astype(int) - frames)
        assert error.mean() < 1.5 and np.quantile(error, 0.999) < 25


def test_several_tasks_take_turns_and_an_episode_says_which_one_it_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(Slalom, "tasks", ("left", "right"))
    batch = Batch(subset="labeled", first=1, last=4)
    render_batch(CFG, batch, str(tmp_path))
    records = json.loads(storage.read_text(batch.record_uri(str(tmp_path))))
    assert [record["task"] for record in records] == ["right", "left", "right"]
    files = [tmp_path / f"labeled/episode_{n:06d}.npz" for n in (1, 2, 3)]
    conditions = [np.load(file, allow_pickle=False)["condition"].tolist() for file in files]
    assert conditions == [[0, 1], [1, 0], [0, 1]]


def test_unseen_episodes_lie_in_a_folder_of_their_own_below_the_held_out_ones(tmp_path):
    cfg = replace(CFG, env=SlalomConfig(), unseen_env=SlalomConfig(distractors=True))
    assert {batch.subset for batch in batches(CFG)} == {"videos", "labeled", "labeled_val"}
    unseen = [batch for batch in batches(cfg) if batch.subset == "unseen"]
    assert sum(map(len, unseen)) == CFG.num_labeled_val_episodes
    assert cfg.env_of("unseen").distractors and not cfg.env_of("labeled_val").distractors
    render_batch(cfg, unseen[0], str(tmp_path))
    folder = tmp_path / "labeled_val" / UNSEEN
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"episode_00000{n}.{suffix}" for n in (0, 1) for suffix in ("mp4", "npz"))
    ]


def test_labeled_episodes_may_come_from_another_scene_than_everything_else(tmp_path):
    cfg = replace(CFG, labeled_env=SlalomConfig(distractors=False))
    for name, made in (("both", CFG), ("labels", cfg)):
        for subset in ("labeled", "labeled_val"):
            render_batch(made, Batch(subset=subset, first=0, last=2), str(tmp_path / name))

    def first_frame(name, subset):
        return decode_clip((tmp_path / name / subset / "episode_000000.mp4").read_bytes())[0]

    def actions(name):
        return np.load(tmp_path / name / "labeled/episode_000000.npz")["action"]

    plain = Slalom(cfg.labeled_env).reset(np.array([derive_seed(CFG.seed, "labeled", 0)]))[0]
    assert np.abs(first_frame("labels", "labeled").astype(int) - plain).mean() < 1.5
    assert np.abs(first_frame("both", "labeled").astype(int) - plain).mean() > 5
    np.testing.assert_array_equal(actions("labels"), actions("both"))
    np.testing.assert_array_equal(
        first_frame("labels", "labeled_val"), first_frame("both", "labeled_val")
    )


def test_the_subsets_hold_different_episodes(tmp_path):
    seeds = []
    for batch in batches(CFG):
        render_batch(CFG, batch, str(tmp_path))
        seeds += [r["seed"] for r in json.loads(storage.read_text(batch.record_uri(str(tmp_path))))]
    assert len(set(seeds)) == len(seeds) == 12
    assert not list((tmp_path / "videos").glob("*.npz"))


def test_failed_demonstrations_are_dropped_and_counted(tmp_path):
    pytest.importorskip("procgen", reason="procgen2 is not installed")
    env = ProcgenConfig(task="maze", expert="random", episode_steps=60)
    cfg = CollectConfig(env=env, num_episodes=20, num_labeled_episodes=0, drop_failed=True)
    batch = Batch(subset="videos", first=0, last=20)
    render_batch(cfg, batch, str(tmp_path))
    records = json.loads(storage.read_text(batch.record_uri(str(tmp_path))))
    kept = {f"episode_{r['episode']:06d}.mp4" for r in records if r["success"]}
    assert 0 < len(kept) < 20
    assert {path.name for path in (tmp_path / "videos").iterdir()} == kept
    assert all(r["is_dropped"] != r["success"] for r in records)


def test_a_batch_with_an_episode_that_cannot_be_written_is_not_complete(tmp_path):
    batch = Batch(subset="videos", first=0, last=3)
    (tmp_path / "videos/episode_000000.mp4").mkdir(parents=True)  # no file can take its place
    with pytest.raises(storage.StorageError, match=r"episode_000000\.mp4"):
        render_batch(CFG, batch, str(tmp_path))
    assert not storage.is_file(batch.record_uri(str(tmp_path)))


def test_a_return_that_is_not_finite_is_unknown(tmp_path, monkeypatch):
    step = Slalom.step

    def step_with_a_nan(env: Slalom, actions: np.ndarray) -> StepResult:
        result = step(env, actions)
        return replace(result, reward=np.array([np.nan, *result.reward[1:]]))

    monkeypatch.setattr(Slalom, "step", step_with_a_nan)
    batch = Batch(subset="videos", first=0, last=3)
    render_batch(CFG, batch, str(tmp_path))
    records = strict_json.read(list[EpisodeRecord], batch.record_uri(str(tmp_path)))
    assert [record.episode_return for record in records] == [None, 1.0, 1.0]


def test_demonstrations_go_to_s3_too(s3_bucket):
    render_batch(CFG, Batch(subset="labeled_val", first=0, last=2), s3_bucket)
    names = [info.uri.removeprefix(s3_bucket) for info in storage.list_files(s3_bucket)]
    assert names == [
        "/batches/labeled_val-000000-000002.json",
        *(f"/labeled_val/episode_00000{n}.{suffix}" for n in (0, 1) for suffix in ("mp4", "npz")),
    ]


@pytest.mark.parametrize("values", [{"num_episodes": 0}, {"seed": -1}, {"episodes_per_task": 0}])
def test_impossible_numbers_are_rejected(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        CollectConfig(env=SlalomConfig(), **values)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/collect").glob("*.yaml")), ids=str)
def test_every_config_loads(path):
    cfg = load_config(CollectConfig, path)
    assert path.name.startswith(cfg.env.name) or (cfg.env.name, cfg.num_episodes) == ("slalom", 700)


def run_job(storage_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "ray_jobs.collect", "configs/collect/slalom.yaml"]
    command += ["num_episodes=60", "num_labeled_episodes=4", "num_labeled_val_episodes=2"]
    command += ["episodes_per_task=3", "--run-name", "run", "--storage", str(storage_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"RAY_ADDRESS": ""},
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for subset in ("videos", "labeled", "labeled_val")
        for path in sorted((folder / subset).iterdir())
        if not path.name.startswith(".")
    }


@pytest.mark.slow  # kills of `preprocess`, on the same tasks, are in every run of the tests
def test_a_killed_job_resumes_to_the_same_files(tmp_path):
    killed = run_job(tmp_path)
    batch_folder = tmp_path / "run/demonstrations/batches"
    deadline = time.monotonic() + 120
    while len(list(batch_folder.glob("*.json")) if batch_folder.is_dir() else []) < 3:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(2)  # Ray's processes follow their driver
    finished = {path: path.stat().st_mtime_ns for path in batch_folder.glob("*.json")}
    assert 3 <= len(finished) < 22, "killed too late to test anything"

    resumed = run_job(tmp_path)
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert "demonstrations: resuming" in output
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())

    cfg = load_config(CollectConfig, tmp_path / "run/demonstrations/config.yaml")
    undisturbed = tmp_path / "undisturbed"
    for batch in batches(cfg):
        render_batch(cfg, batch, str(undisturbed))
    assert digests(tmp_path / "run/demonstrations") == digests(undisturbed)
    episodes = pq.read_table(tmp_path / "run/demonstrations/episodes.parquet").to_pylist()
    assert len(episodes) == 66 and all(episode["success"] for episode in episodes)


def test_masks_lie_beside_the_episodes_and_go_with_their_clips(tmp_path):
    cfg = replace(CFG, num_episodes=2, draw_masks=True, unseen_env=SlalomConfig())
    run = RunDir(str(tmp_path / "run"))
    demonstrations = run.stage("demonstrations").uri
    first_masks = {}
    for batch in batches(cfg):
        render_batch(cfg, batch, demonstrations)
        for record in json.loads(storage.read_text(batch.record_uri(demonstrations))):
            env = Slalom(cfg.env_of(batch.subset))
            env.reset(np.array([record["seed"]]))
            first_masks[f"{batch.folder}/episode_{record['episode']:06d}.mp4"] = env.agent_mask()[0]
    assert len(first_masks) == 2 + 3 + 2 + 2
    found = set()
    for labels in (None, LabelsConfig()):
        chosen = PreprocessConfig(
            labels=labels,
            masks=MasksConfig(),
            clip=ClipConfig(fps=None, max_s=60, min_frames=4),
            resize=ResizeConfig(width_px=48, height_px=48),
        )
        chosen = resolve(chosen, run)
        decoder = VIDEO_DECODERS.build(chosen.video_decoder)
        for item in list_inputs(chosen):
            _, clip = video_to_clips(item, chosen, decoder)
            name = item.uri.removeprefix(f"{demonstrations}/")
            mask = np.unpackbits(clip.labels.mask, axis=2)
            assert mask.shape == (clip.record.num_frames, 48, 48) and mask.any((1, 2)).all()
            np.testing.assert_array_equal(mask[0], first_masks[name])
            found.add(name)
    assert found == set(first_masks)


def test_masks_are_drawn_only_if_they_are_asked_for(tmp_path):
    render_batch(CFG, Batch(subset="videos", first=0, last=1), str(tmp_path))
    assert not (tmp_path / "masks").exists()
