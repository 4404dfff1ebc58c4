"""Storing latent actions with a real LAM on a real local Ray, and training from them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from data_pipelines.label_latents import LabelLatentsConfig, label_latents
from data_pipelines.on_ray.tasks import run_tasks
from lafp.config import ConfigError, config_from_dict
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.shards.sets import read_shard_entry
from lafp.data.stored_latents import MAX_ROUNDING, LatentReader
from lafp.finished.saved_model import save_model
from lafp.lam import load_lam
from lafp.objectives.lapo import Lapo
from lafp.runs.run_dir import RunDir
from lafp.train.context import LocalContext, to_clip_batches
from lafp.train.loop import train
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from lafp.types import ObsSpec
from lafp.video import decode_clip
from ray_jobs import label_latents as job
from ray_jobs import train_policy
from ray_jobs.core.cluster import start_local
from tests.doc_examples import run_example
from tests.synthetic_shards import moving_dot, write_shard_set

ROOT = Path(__file__).parents[2]
CFG = LabelLatentsConfig(batch_size=5)
ENCODER = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
STACK = 2
ATOL = 2e-4  # the latents are of the order of 0.1


@pytest.fixture(scope="module", autouse=True)
def local_ray(s3_server):
    start_local(2)
    yield
    ray.shutdown()


def write_lam(uri: str, seed: int = 0) -> str:
    cfg = config_from_dict(
        Lapo.Config,
        {
            "latent_action_dim": 4,
            "encoder": ENCODER,
            "idm_input": "difference",
            "fdm": {"channels": [8, 8]},
            "bottleneck": {"name": "none"},
        },
    )
    obs = ObsSpec(height_px=16, width_px=16, frame_stack=STACK, fps=10)
    torch.manual_seed(seed)
    save_model(uri, kind="lam", config=cfg, specs={"obs": obs}, module=Lapo(cfg, obs), metrics={})
    return uri


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("label")
    uris = {
        "shards": write_shard_set(folder / "videos", 20, num_val_clips=4),
        "lam": write_lam(str(folder / "lam")),
        "latents": str(folder / "latents"),
    }
    label_latents(CFG, uris["shards"], uris["lam"], uris["latents"])
    return uris


def policy_task(
    made, latents: str | None, shards: str | None = None, lam: str | None = None, chunk_steps=1
):
    raw = {
        "policy": {"name": "latent_bc", "encoder": ENCODER, "chunk_steps": chunk_steps},
        "window": {"frame_stack": STACK, "windows_per_clip": 3},
        "train": {"num_steps": 4, "global_batch_size": 12, "optim": {"lr": 1e-3}},
    }
    cfg = config_from_dict(TrainPolicyConfig, raw)
    return PolicyTask(cfg, shards or made["shards"], lam or made["lam"], latents)


def first_inputs(task: PolicyTask, num_steps: int):
    plan = MicroBatchLayout(demands=task.demands(), rank=0, world_size=1, num_rounds=1)
    batches = map(to_clip_batches, MicroBatchReader(plan, 1 << 24).read_from(0))
    return [task.inputs(next(batches)) for _ in range(num_steps)]


def test_every_pair_of_every_clip_has_the_latent_action_that_the_lam_infers(made):
    lam, reader = load_lam(made["lam"]), LatentReader(made["latents"])
    shards = sorted(path.name for path in Path(made["shards"]).glob("*.tar"))
    assert len(shards) == 5
    num_pairs = 0
    for shard in shards:
        tar = (Path(made["shards"]) / shard).read_bytes()
        for location in read_shard_entry(made["shards"], shard).clips:
            video = tar[location.video_offset :][: location.video_bytes]
            frames = torch.from_numpy(decode_clip(video)).permute(0, 3, 1, 2).float() / 127.5 - 1
            stored = reader.read(shard, location)
            assert stored.shape == (len(frames), 4)
            for t in range(STACK - 1, len(frames) - 1):
                obs, next_obs = (
                    frames[t + i - STACK + 1 : t + i + 1].flatten(0, 1) for i in (0, 1)
                )
                expected = lam.infer_latent_action(obs[None], next_obs[None])[0].numpy()
                np.testing.assert_allclose(stored[t], expected, atol=ATOL)
                num_pairs += 1
            assert not stored[: STACK - 1].any() and not stored[-1].any()
    assert reader.spec.num_pairs == num_pairs and reader.spec.num_clips == 20
    assert (reader.spec.rounding <= MAX_ROUNDING) == (reader.spec.dtypes == "float16")


@pytest.mark.parametrize("chunk_steps", [1, 4])
def test_a_policy_gets_the_same_targets_from_stored_latents_as_on_the_fly(made, chunk_steps):
    stored = first_inputs(policy_task(made, made["latents"], chunk_steps=chunk_steps), 6)
    on_the_fly = first_inputs(policy_task(made, None, chunk_steps=chunk_steps), 6)
    for ours, theirs in zip(stored, on_the_fly, strict=True):
        assert torch.equal(ours.obs, theirs.obs)
        torch.testing.assert_close(ours.latent_action, theirs.latent_action, atol=ATOL, rtol=0)


def test_a_policy_trains_from_stored_latents_without_running_the_lam(made, tmp_path, monkeypatch):
    task = policy_task(made, made["latents"])
    monkeypatch.setattr(task.lam, "infer_latent_action", lambda *_: pytest.fail("the LAM ran"))
    metrics = train(task.cfg.train, task, LocalContext(str(tmp_path)))
    assert np.isfinite([metrics["loss"], metrics["val/loss"]]).all()


def test_the_latents_of_a_video_are_found_by_its_id(made):
    rows = pq.read_table(Path(made["latents"]) / "latents.parquet").to_pylist()
    records = pq.read_table(Path(made["shards"]) / "clips").to_pylist()
    video_of = {record["clip_id"]: record["video_id"] for record in records}
    assert {row["clip_id"]: row["video_id"] for row in rows} == video_of
    row = rows[7]
    file = Path(made["latents"]) / row["shard"].replace(".tar", ".npy")
    mine = np.load(file)[row["first_row"] : row["first_row"] + row["num_pairs"]]
    assert len(mine) == row["num_pairs"] > 0


def test_another_lam_and_other_shards_are_refused(made, tmp_path):
    other_lam = write_lam(str(tmp_path / "lam"), seed=1)
    with pytest.raises(ConfigError, match="latent actions of another LAM"):
        policy_task(made, made["latents"], lam=other_lam)
    other_shards = write_shard_set(tmp_path / "videos", 8, seed=3)
    with pytest.raises(ConfigError, match="latent actions of another shard set"):
        policy_task(made, made["latents"], shards=other_shards)


def test_a_damaged_clip_becomes_a_reject_and_is_not_trained_on(made, tmp_path):
    shards = Path(write_shard_set(tmp_path / "videos", 20, num_val_clips=4))
    tar = shards / "train-000001.tar"
    entry = read_shard_entry(str(shards), tar.name)
    data = bytearray(tar.read_bytes())
    data[entry.clips[2].video_offset + 40] ^= 0xFF
    tar.write_bytes(bytes(data))
    uri = str(tmp_path / "latents")
    summary = label_latents(CFG, str(shards), made["lam"], uri)
    assert (summary["num_clips"], summary["num_rejected_clips"]) == (16, 4)
    rejects = pq.read_table(Path(uri) / "rejects.parquet").to_pylist()
    damaged = {clip.clip_id for clip in entry.clips}
    assert {row["clip_id"] for row in rejects} == damaged
    assert {row["reason"] for row in rejects} == {"damaged"} and all(r["video_id"] for r in rejects)
    order = policy_task(made, uri, shards=str(shards)).demands()["videos"].order
    visited = {ref.location.clip_id for ref, _ in zip(order.visits(), range(12), strict=False)}
    assert len(visited) == order.num_clips == 12 and not visited & damaged


def test_on_s3_only_what_is_missing_is_made_again(made, s3_bucket):
    import boto3

    uri = f"{s3_bucket}/latents"
    label_latents(CFG, made["shards"], made["lam"], uri)
    client, bucket = boto3.client("s3"), s3_bucket.removeprefix("s3://")

    def changed() -> dict[str, object]:
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
        return {item["Key"]: item["LastModified"] for item in listed if "-0000" in item["Key"]}

    before = changed()
    client.delete_object(Bucket=bucket, Key="latents/train-000002.json")
    time.sleep(1)  # S3 tells times in seconds
    label_latents(CFG, made["shards"], made["lam"], uri)
    after = changed()
    made_again = {key for key in before if before[key] != after[key]}
    assert made_again == {"latents/train-000002.json", "latents/train-000002.npy"}
    local = (Path(made["latents"]) / "train-000002.npy").read_bytes()
    remote = client.get_object(Bucket=bucket, Key="latents/train-000002.npy")["Body"].read()
    assert remote == local


def complete(run: RunDir, name: str) -> str:
    stage = run.stage(name)
    stage.begin({"name": name}, {})
    stage.finish({})
    return stage.uri


@pytest.fixture
def run(tmp_path) -> RunDir:
    run = RunDir(str(tmp_path / "run"))
    write_shard_set(Path(complete(run, "shards/videos")), 60, clips_per_shard=1)
    write_lam(complete(run, "lam"))
    return run


@pytest.mark.slow
def test_a_killed_job_resumes_to_the_same_files_and_train_policy_finds_them(run, tmp_path):
    command = [sys.executable, "-m", "ray_jobs.label_latents", "configs/label_latents/videos.yaml"]
    command += ["--run-name", "run", "--storage", str(tmp_path)]
    popen = {"cwd": ROOT, "env": os.environ | {"RAY_ADDRESS": ""}, "start_new_session": True}
    folder = tmp_path / "run/latents/videos"
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, **popen)
    deadline = time.monotonic() + 400  # a busy machine takes long to start Ray
    while len(list(folder.glob("train-*.json"))) < 3:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("train-*.json")}
    assert 3 <= len(kept) < 60, "killed too late to test anything"
    shards, lam = run.stage("shards/videos").uri, run.stage("lam").uri
    with pytest.raises(ConfigError, match="'latents/videos' is not complete"):
        train_policy.resolve(policy_cfg("videos"), run)
    subprocess.run(command, check=True, capture_output=True, **popen)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    label_latents(LabelLatentsConfig(), shards, lam, str(tmp_path / "undisturbed"))
    for path in (tmp_path / "undisturbed").glob("train-*"):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert train_policy.resolve(policy_cfg("videos"), run)[2].uri == str(folder)
    train_policy.build_task(policy_cfg("videos"), run)()
    write_lam(lam, seed=1)
    with pytest.raises(ConfigError, match="another LAM"):
        train_policy.build_task(policy_cfg("videos"), run)()
    with pytest.raises(ConfigError, match="made with other inputs"):
        run.stage("latents/videos").state(
            LabelLatentsConfig(), job.inputs(LabelLatentsConfig(), run)
        )


def policy_cfg(latents: str) -> TrainPolicyConfig:
    raw = {
        "policy": {"name": "latent_bc", "encoder": ENCODER},
        "window": {"frame_stack": STACK},
        "latents": latents,
        "train": {"num_steps": 4, "global_batch_size": 12},
    }
    return config_from_dict(TrainPolicyConfig, raw)


def test_ray_data_reads_our_shards_as_documented(tmp_path):
    shards = write_shard_set(tmp_path, num_clips=5, clips_per_shard=3, has_labels=True)
    clips = run_example("shards.md", "Ray Data", {"shards/labeled": shards})["clips"]
    found = {row["__key__"]: row for row in clips.take_all()}
    entries = [read_shard_entry(shards, f"train-{number:06d}.tar") for number in range(2)]
    locations = [clip for entry in entries for clip in entry.clips]
    assert found.keys() == {clip.clip_id for clip in locations}
    for seed, clip in enumerate(locations):
        row = found[clip.clip_id]
        frames, steps = moving_dot(clip.num_frames, seed)
        assert row["json"]["fps"] == 10.0 and np.array_equal(row["actions"], steps)
        assert np.abs(row["frames"].astype(int) - frames).mean() < 8


def fail_or_wait(number: int) -> None:
    if number == 0:
        raise RuntimeError("the first call fails")
    for _ in range(6000):  # in steps, because Ray interrupts Python code only
        time.sleep(0.1)


@pytest.mark.slow  # on a crowded machine Ray takes minutes to cancel
def test_when_one_call_fails_the_others_are_cancelled():
    """Beside these tests, because it needs a Ray too."""
    with pytest.raises(ray.exceptions.RayTaskError, match="the first call fails"):
        calls = [(number,) for number in range(6)]
        list(run_tasks(fail_or_wait, calls, sizes=[1] * 6, title="calls", unit="calls"))
    deadline = time.monotonic() + 120  # the calls would take ten minutes each
    while (free := ray.available_resources().get("CPU", 0)) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, f"only {free} CPUs are free"
        time.sleep(0.2)
