"""A run directory as the stages leave it, made in seconds: real formats, invented numbers."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from data_pipelines.preprocess.rejects import RejectRow
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.acting.latent_map import LatentPoint, Latents, latent_points
from lafp.evaluate.acting.rollouts import Expert, rollout
from lafp.evaluate.latents.latent_views import write_latent_views
from lafp.evaluate.rows.outcomes import read_outcomes, write_episodes, write_outcomes
from lafp.evaluate.rows.results import Result, Subject, write_results
from lafp.finished.saved_model import save_model
from lafp.models.encoders import SmallCnnConfig
from lafp.objectives.lapo import Lapo, LapoConfig
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import write_rows
from lafp.types import ObsSpec
from tests.synthetic_shards import FPS, write_shard_set

NUM_EPISODES = 40
# label -> method, lowest and highest anchor, noise, success
METHODS = {
    "latent_bc": ("latent_bc", (0.0, 0.0), None, 0.02),
    "latent_bc_idm_decoder": ("latent_bc_idm_decoder", (1.0, 1.0), None, 0.04),
    "lafp_fresh": ("latent_flow", (0.0, 1.0), "fresh", 0.78),
    "flow_anchor_0_fresh": ("latent_flow", (0.0, 0.0), "fresh", 0.31),
    "flow_anchor_1_fresh": ("latent_flow", (1.0, 1.0), "fresh", 0.80),
    "lafp_persistent": ("latent_flow", (0.0, 1.0), "persistent", 0.79),
}


def write_video_run(folder: Path, size_px: int = 16) -> str:
    """A run on videos without labels: shards with rejects, a LAM, latent views."""
    run = RunDir(str(folder))
    _write_shards(run, "videos", size_px)
    _write_lam(run, size_px, probe={})
    config = {"env": None, "methods": []}
    stage = run.stage("evaluation")
    stage.begin(config, {})
    seen = {run.stage("shards/videos").uri: 1.0}
    write_latent_views(run.stage("lam").uri, seen, stage.path("latent_views"), seed=0)
    write_results(stage.path("results.parquet"), [])
    stage.finish({"wall_s": 12.0})
    return run.uri


def write_demo_run(folder: Path, size_px: int = 16, num_episodes: int = NUM_EPISODES) -> str:
    """A run of all stages on the embedded environment."""
    run = RunDir(str(folder))
    stage = run.stage("demonstrations")
    stage.begin({"env": {"name": "slalom", "distractors": False}}, {})
    stage.finish({"num_episodes": 700, "success": 1.0, "wall_s": 14.3})
    _write_shards(run, "videos", size_px)
    _write_shards(run, "labeled", size_px)
    _write_lam(run, size_px, probe={"lam": 0.94, "obs_embedding": 0.41, "random_lam": 0.55})
    for name, floor in (("latent_bc", 0.4), ("latent_flow", 0.9)):
        _write_model(run, f"policy/{name}", {"policy": {"name": name}}, _falling(floor))
    for label, (method, anchors, _, _) in METHODS.items():
        if not label.endswith("persistent"):
            _write_decoder(run, label, "latent_flow" if "flow" in method else "latent_bc", anchors)
    _write_evaluation(run, num_episodes)
    return run.uri


def _write_shards(run: RunDir, name: str, size_px: int) -> None:
    stage = run.stage(f"shards/{name}")
    stage.begin({"source": f"/data/{name}", "fps": FPS}, {})
    is_labeled = name == "labeled"
    write_shard_set(
        Path(stage.uri), num_clips=40, num_val_clips=20, size_px=size_px, has_labels=is_labeled
    )
    rejects = [
        ("bucket/talking_head.mp4", 0.0, 9.0, "static", "median motion 0.0012"),
        ("bucket/talking_head.mp4", 9.0, 14.5, "static", "median motion 0.0009"),
        ("bucket/clip_17.mp4", 0.0, 2.1, "near_duplicate", "of clip 3f6c", "3f6c", "a.mp4"),
        ("bucket/broken.mp4", 0.0, 0.0, "does_not_decode", "moov atom not found <script>"),
    ]
    columns = [field.name for field in fields(RejectRow)]
    rows = [RejectRow(**dict(zip(columns, row, strict=False))) for row in rejects]
    write_rows(stage.path("rejects.parquet"), RejectRow, [] if is_labeled else rows)
    kept = {"spans": 40, "seconds": 30.3}
    reasons = {row[3] for row in rejects} if not is_labeled else set()
    of_reason = {
        reason: {
            "spans": sum(row[3] == reason for row in rejects),
            "seconds": sum(row[2] - row[1] for row in rejects if row[3] == reason),
        }
        for reason in sorted(reasons)
    }
    seconds = kept["seconds"] + sum(outcome["seconds"] for outcome in of_reason.values())
    inputs = {"videos": 43, "seconds": seconds}
    funnel = {"inputs": inputs, "rejects": of_reason, "clips": kept}
    summary = {"num_videos": 43, "num_videos_with_clips": 40, "funnel": funnel}
    stage.finish(summary | {"wall_s": 21.0})


def _falling(floor: float, num_steps: int = 1000, every: int = 50) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    return [
        {"step": step, "loss": floor + np.exp(-step / 200) + 0.02 * rng.random()}
        | ({"val/loss": floor + 0.05 + np.exp(-step / 220)} if step % 250 == 0 else {})
        for step in range(every, num_steps + 1, every)
    ]


def _write_model(run: RunDir, name: str, config: dict, metrics: list[dict[str, float]]) -> None:
    stage = run.stage(name)
    stage.begin(config, {})
    lines = "".join(json.dumps(record) + "\n" for record in metrics)
    (Path(stage.uri) / "metrics.jsonl").write_text(lines)
    stage.finish({"loss": metrics[-1]["loss"], "wall_s": 60.5})


def _write_lam(run: RunDir, size_px: int, probe: dict[str, float]) -> None:
    torch.manual_seed(0)
    cfg = LapoConfig(latent_action_dim=8, encoder=SmallCnnConfig(channels=(8, 8), embed_dim=16))
    obs = ObsSpec(height_px=size_px, width_px=size_px, frame_stack=1, fps=FPS)
    metrics = _falling(0.2)
    for record in metrics:
        share = 1 - np.exp(-record["step"] / 300)
        record |= {"fdm_explained": 0.9 * share, "latent/effective_rank": 1 + 5 * share}
        if "val/loss" in record and probe:
            record |= {"probe/r2": probe["lam"] * share}
            record |= {f"probe/r2_{k}": v for k, v in probe.items() if k != "lam"}
    config = {
        "objective": {"name": "lapo"},
        "shards": None,
        "supervision": {"weight": 0.1 if probe else 0.0},
        "train": {
            "num_steps": 1000,
            "global_batch_size": 64,
            "num_workers": 2,
            "seed": 0,
            "engine": {"name": "deepspeed", "zero_stage": 2},
        },
    }
    _write_model(run, "lam", config, metrics)
    save_model(
        run.stage("lam").uri,
        kind="lam",
        config=cfg,
        specs={"obs": obs},
        module=Lapo(cfg, obs),
        metrics={},
    )


def _write_decoder(run: RunDir, label: str, policy: str, anchors: tuple[float, float]) -> None:
    anchor_time = sum(anchors) / 2
    metrics = _falling(0.05 * (1 + abs(anchor_time - 0.5)), num_steps=800)
    for record in metrics:
        if "val/loss" in record:
            share = 1 - np.exp(-record["step"] / 300)
            record |= {
                "val/action_r2_anchored": (0.4 + 0.5 * anchor_time) * share,
                "val/action_r2_deployed": 0.5 * share,
            }
    config = {"policy": policy, "anchor_time": list(anchors)}
    _write_model(run, f"decoder/{label}", config, metrics)


def _write_evaluation(run: RunDir, num_episodes: int) -> None:
    stage = run.stage("evaluation")
    env_config = {"name": "slalom", "distractors": False}
    methods = [{"label": label} for label in METHODS]
    stage.begin({"env": env_config, "methods": methods, "num_episodes": num_episodes}, {})
    seen = {run.stage("shards/videos").uri: 1.0}
    write_latent_views(run.stage("lam").uri, seen, stage.path("latent_views"), seed=0)
    demonstrator = Subject(label="demonstrator", method="demonstrator", task="slalom")
    rows = [Result.of(demonstrator, "success", 1.0, num_episodes, low=1.0, high=1.0)]
    env = Slalom(SlalomConfig())
    episodes = rollout(env, Expert(env), np.arange(num_episodes), num_recorded=8)
    write_outcomes(stage.uri, demonstrator, [episodes], fps=env.fps)
    outcomes = read_outcomes(stage.uri, "demonstrator")
    for label, (method, (low, high), noise, success) in METHODS.items():
        subject = Subject(
            label=label,
            method=method,
            task="slalom",
            anchor_low=low,
            anchor_high=high,
            noise=noise,
            solver_steps=4 if noise else None,
        )
        is_success = np.arange(num_episodes) < success * num_episodes
        write_outcomes(stage.uri, subject, [replace(episodes, success=is_success)], fps=env.fps)
        outcomes += read_outcomes(stage.uri, label)
        rows += _method_rows(subject, success, num_episodes)
    probe = Subject(label="lam", method="lam")
    for name, r2 in (("lam", 0.94), ("embedding", 0.41), ("random_lam", 0.55), ("nothing", 0.0)):
        of = replace(probe, label=name, method=name)
        interval = {"low": r2 - 0.02, "high": r2 + 0.02} if name == "lam" else {}
        rows.append(Result.of(of, "probe_r2", r2, 690, **interval))
        rows.append(Result.of(of, "probe_mse", 0.3 * (1 - r2), 690))
    write_results(stage.path("results.parquet"), rows)
    write_rows(stage.path("latent_map.parquet"), LatentPoint, _map_of_latents())
    write_episodes(stage.path("episodes.parquet"), outcomes)
    stage.finish({"wall_s": 48.0})


def _map_of_latents() -> list[LatentPoint]:
    """Two ways: the flow policy keeps both, and cloning predicts their mean."""
    generator = torch.Generator().manual_seed(0)
    side_N = (torch.arange(200) % 2) * 2.0 - 1
    latent_NZ = 0.3 * torch.randn(200, 4, generator=generator)
    groups_NZ = latent_NZ + side_N[:, None] * torch.tensor([1.0, 0.8, 0.0, 0.0])
    found = {"idm": groups_NZ, "latent_bc": latent_NZ / 2, "latent_flow": groups_NZ.roll(1, 0)}
    action_NA = torch.stack([torch.ones(200), side_N], 1)
    return latent_points(
        {name: Latents(latent_action=z, true_action=action_NA) for name, z in found.items()}, 0
    )


def _method_rows(subject: Subject, success: float, n: int) -> list[Result]:
    low, high = max(0.0, success - 0.05), min(1.0, success + 0.05)
    is_flow = subject.method == "latent_flow"
    anchor_time = sum(subject.anchors or (0.0,)) / 2
    return [
        Result.of(subject, "alignment_to_idm", 0.2 * (1 - anchor_time), 690),
        Result.of(subject, "alignment_to_deployed", 0.2 * anchor_time, 690),
        Result.of(subject, "action_mse_on_idm", 0.1 - 0.08 * anchor_time, 690),
        Result.of(subject, "action_mse_on_deployed", 0.3, 690),
        Result.of(subject, "success", success, n, low=low, high=high),
        Result.of(subject, "length", 22.0, n, low=20.5, high=23.5),
        Result.of(subject, "side_entropy", 0.97 if is_flow else 0.4, n),
        Result.of(subject, "mode_coverage", 0.95 if is_flow else float("nan"), n),
        Result.of(subject, "action_r2", 0.52, n),
        Result.of(subject, "latency_b1_ms", 1.6 if is_flow else 1.2, 60),
        Result.of(subject, "latency_b1_disturbance", 0.02, 60),
        Result.of(subject, "latency_b64_disturbance", 0.02, 60),
        Result.of(subject, "latency_b1_ratio", 1.33 if is_flow else 1.0, 60),
        Result.of(subject, "latency_b64_ms", 9.4 if is_flow else 8.8, 60),
    ]
