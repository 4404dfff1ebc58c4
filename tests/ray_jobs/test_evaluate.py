"""The evaluate job on a run whose models are real but untrained."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from lafp.config import ConfigError
from lafp.data.shards.sets import shards_sha256
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.config import EvaluateConfig, LatencyConfig, MethodConfig
from lafp.evaluate.rows.grouped import read_run
from lafp.evaluate.rows.results import read_results
from lafp.models.action_decoder import ActionDecoderConfig
from lafp.models.encoders import SmallCnnConfig
from lafp.objectives.lapo import LapoConfig
from lafp.policies.latent_bc import LatentBcConfig
from lafp.policies.latent_flow import LatentFlowConfig
from lafp.runs.run_dir import RunDir
from lafp.train.config import TrainConfig
from lafp.train.tasks.behavior_cloning import BehaviorCloningTask, TrainBcConfig
from lafp.train.tasks.decoder import DecoderTask, TrainDecoderConfig
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from ray_jobs.core.cluster import start_local
from ray_jobs.core.job import execute
from ray_jobs.evaluate import JOB, plan
from ray_jobs.evaluation.measured import viewed_shards
from tests.synthetic_shards import write_shard_set

ENCODER = SmallCnnConfig(channels=(4, 4, 4), embed_dim=8)
TRAIN = TrainConfig(num_steps=1, global_batch_size=8, seed=5)
CFG = EvaluateConfig(
    env=SlalomConfig(),
    methods=(
        MethodConfig(label="bc", policy="latent_bc", action_decoder="bc"),
        MethodConfig(label="bc_idm", policy="latent_bc", action_decoder="bc_idm"),
        MethodConfig(label="flow", policy="latent_flow", action_decoder="flow", noise="persistent"),
        MethodConfig(label="scratch", policy="scratch"),
    ),
    num_episodes=10,
    episodes_per_task=6,
    latency=LatencyConfig(batch_sizes=(1, 4), num_rounds=3, solver_steps=(1, 2)),
    save_rollouts=3,
)


@pytest.fixture(scope="module")
def cluster():
    start_local(2)
    yield
    ray.shutdown()


def save(stage, cfg, task, metrics, inputs=None):
    stage.begin(cfg, inputs or {})
    task.save(task.module, stage.uri, metrics)
    stage.finish({})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """LAM, two policies and three action decoders, saved by their own tasks."""
    folder = tmp_path_factory.mktemp("run")
    run = RunDir(str(folder))
    videos = write_shard_set(folder / "shards/videos", size_px=48, num_clips=8)
    labeled = write_shard_set(
        folder / "shards/labeled", size_px=48, num_clips=8, num_val_clips=4, has_labels=True
    )
    for name in ("shards/videos", "shards/labeled"):
        run.stage(name).begin(CFG, {})
        run.stage(name).finish({})
    lam_cfg = TrainLamConfig(
        objective=LapoConfig(latent_action_dim=8, encoder=ENCODER),
        supervision=SupervisionConfig(weight=0.5),
        train=TRAIN,
    )
    lam = run.stage("lam")
    probe = {"r2": 0.5, "r2_low": 0.4, "r2_high": 0.6, "mse": 0.1, "action_variance": 0.2, "n": 20}
    probe |= {"r2_obs_embedding": 0.1, "r2_random_lam": 0.2, "num_episodes": 4}
    metrics = {f"probe/{name}": float(value) for name, value in probe.items()}
    inputs = {"labeled_shards": shards_sha256(labeled)}
    save(lam, lam_cfg, LamTask(lam_cfg, videos, labeled), metrics, inputs)
    for policy in (LatentBcConfig(encoder=ENCODER), LatentFlowConfig(encoder=ENCODER)):
        policy_cfg = TrainPolicyConfig(policy=policy, train=replace(TRAIN, seed=7))
        stage = run.stage(f"policy/{policy.name}")
        save(stage, policy_cfg, PolicyTask(policy_cfg, videos, lam.uri), {})
    for name, policy_name, anchor_time in (
        ("bc", "latent_bc", 0.0), ("bc_idm", "latent_bc", 1.0), ("flow", "latent_flow", (0.0, 1.0)),
    ):  # fmt: skip
        decoder_cfg = TrainDecoderConfig(
            name=name, policy=policy_name, anchor_time=anchor_time, label_fraction=0.5,
            action_decoder=ActionDecoderConfig(hidden_dims=(8,)), train=TRAIN,
        )  # fmt: skip
        policy_uri = run.stage(f"policy/{policy_name}").uri
        task = DecoderTask(decoder_cfg, labeled, policy_uri, lam.uri)
        save(run.stage(f"decoder/{name}"), decoder_cfg, task, {})
    scratch_cfg = TrainBcConfig(
        name="scratch", label_fraction=0.25, policy=LatentBcConfig(encoder=ENCODER), train=TRAIN
    )
    task = BehaviorCloningTask(scratch_cfg, labeled)
    save(run.stage("policy/scratch"), scratch_cfg, task, {})
    return run


@pytest.fixture(scope="module")
def evaluated(run, cluster):
    execute(JOB, CFG, run)
    return run.stage("evaluation")


def test_the_table_holds_every_method_and_metric(evaluated):
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    success = table[table.metric == "success"].set_index("label")
    assert list(success.index) == ["demonstrator", "bc", "bc_idm", "flow", "scratch"]
    assert (success.n == 10).all()
    assert success.value["demonstrator"] == 1
    assert success.low.le(success.value).all() and success.value.le(success.high).all()
    of_flow = set(table[table.label == "flow"].metric)
    assert of_flow >= {"return", "length", "side_entropy", "mode_coverage"}
    assert of_flow >= {"action_mse", "action_r2", "latency_b1_ms", "latency_b4_ratio"}
    num_transitions = table[(table.label == "bc") & (table.metric == "action_mse")].n.item()
    assert 4 * 5 <= num_transitions <= 4 * 8


def test_a_decoder_is_aligned_with_what_its_anchor_time_says(evaluated):
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    values = table.pivot_table(index="label", columns="metric", values="value")
    # A clone's own prediction (anchor_time 0) is what it deploys; 1 is the IDM's latent itself.
    assert values.alignment_to_deployed["bc"] == 0 < values.alignment_to_idm["bc"]
    assert values.alignment_to_idm["bc_idm"] == 0
    assert values.alignment_to_deployed["bc_idm"] == pytest.approx(values.alignment_to_idm["bc"])
    assert values.loc["scratch"].filter(regex="alignment_|mse_on_").isna().all(), "no latents"
    assert values.action_mse["scratch"] > 0
    flow = values.loc["flow"]
    assert flow.alignment_to_idm > 0 and flow.alignment_to_deployed > 0
    assert flow.action_mse_on_idm > 0 and flow.action_mse_on_deployed > 0
    rows = table[table.metric.str.match("alignment_|action_mse")]
    assert rows.n.nunique() == 1


def test_the_map_of_latents_holds_those_of_the_lam_and_of_each_policy(evaluated):
    table = pq.read_table(evaluated.path("latent_map.parquet")).to_pandas()
    table = table[table.projection == "pca"]
    assert list(table.source.unique()) == ["idm", "latent_bc", "latent_flow"], "not `scratch`"
    assert table.groupby("source").size().nunique() == 1
    assert table[["x", "y", "action"]].notna().all().all() and not table.is_discrete.any()
    idm = table[table.source == "idm"]
    assert abs(idm.x.mean()) < 1e-6 and idm.x.std() > idm.y.std() > 0


def test_rows_say_what_stands_behind_them(evaluated):
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    rows = table[table.metric == "success"].set_index("label").to_dict("index")
    assert rows["bc"]["method"] == "latent_bc"
    assert rows["bc_idm"]["method"] == "latent_bc_idm_decoder"
    flow = rows["flow"]
    expected = {
        "method": "latent_flow", "task": "slalom", "distractors": False, "objective": "lapo",
        "supervision_weight": 0.5, "anchor_low": 0.0, "anchor_high": 1.0,
        "anchor_steps": "remaining", "noise": "persistent", "solver_steps": 4,
        "label_fraction": 0.5, "label_scope": "both", "seed": 7,
    }  # fmt: skip
    assert {key: flow[key] for key in expected} == expected
    scratch = rows["scratch"]
    assert (scratch["method"], scratch["label_fraction"]) == ("behavior_cloning", 0.25)
    assert scratch["label_scope"] == "policy"
    assert all(pd.isna(scratch[key]) for key in ("objective", "anchor_low", "supervision_weight"))
    assert rows["bc"]["anchor_low"] == rows["bc"]["anchor_high"] == 0
    assert pd.isna(rows["bc"]["noise"]) and pd.isna(rows["bc"]["solver_steps"])


def test_flow_is_timed_with_other_numbers_of_steps_too(evaluated):
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    timed = table[table.metric == "latency_b1_ms"].set_index("label")
    assert set(timed.index) == {"bc", "bc_idm", "flow", "flow_1_steps", "flow_2_steps", "scratch"}
    assert timed.solver_steps["flow_2_steps"] == 2
    ratio = table[table.metric == "latency_b1_ratio"].set_index("label").value
    assert ratio["bc"] == 1.0


def test_the_probe_stands_beside_its_controls(evaluated):
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    r2 = table[table.metric == "probe_r2"].set_index("method").value
    assert set(r2.index) == {"lam", "nothing", "embedding", "random_lam"} and r2["nothing"] == 0
    of_lam = table[table.method == "lam"].set_index("metric")
    assert {"probe_r2_standardized", "probe_r2_mlp"} <= set(of_lam.index)
    over = of_lam.loc["probe_gain_over_embedding"]
    assert over.value == pytest.approx(r2["lam"] - r2["embedding"]) and over.low <= over.high
    # All four training episodes supervised, so two of the four held-out ones are measured.
    assert 2 * 5 <= of_lam.n["probe_r2"] <= 2 * 8
    assert of_lam.labeled_episodes["probe_r2"] == 4 and pd.isna(of_lam.label_fraction["probe_r2"])


def test_every_outcome_is_kept_and_methods_share_their_episodes(evaluated):
    episodes = pq.read_table(evaluated.path("episodes.parquet")).to_pandas()
    assert len(episodes) == 50
    seeds = episodes.groupby("label").episode_seed.apply(tuple)
    assert seeds.nunique() == 1
    table = pq.read_table(evaluated.path("results.parquet")).to_pandas()
    success = table[table.metric == "success"].set_index("label").value
    for label, mean in episodes.groupby("label").success.mean().items():
        assert success[label] == mean


def test_a_second_evaluation_repeats_nothing_that_is_there(run, evaluated):
    folder = run.stage("evaluation")
    before = pq.read_table(folder.path("episodes.parquet"))
    kept = {name: mtime(folder, name) for name in ("rollouts/bc.parquet", "latency.json")}
    for name in ("summary.json", "rollouts/flow.parquet", "results.parquet"):
        Path(folder.path(name)).unlink()
    execute(JOB, CFG, run)
    assert pq.read_table(folder.path("episodes.parquet")).equals(before)
    assert {name: mtime(folder, name) for name in kept} == kept


def mtime(stage, name):
    return Path(stage.path(name)).stat().st_mtime_ns


def test_where_returns_count_random_actions_are_the_zero_of_a_normalized_return(
    run, cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(Slalom, "has_return", True)
    mine = RunDir(str(shutil.copytree(run.uri, tmp_path / "run")))
    shutil.rmtree(mine.stage("evaluation").uri, ignore_errors=True)
    execute(JOB, replace(CFG, methods=CFG.methods[:1]), mine)
    folder = mine.stage("evaluation")
    rows = {(row.label, row.metric): row for row in read_results(folder.path("results.parquet"))}
    assert (rows["random", "success"].method, rows["random", "success"].task) == (
        "random",
        "slalom",
    )
    values = {label: rows[label, "return"].value for label in ("random", "bc", "demonstrator")}
    assert values["random"] < values["demonstrator"] == 1
    for label, value in values.items():
        expected = (value - values["random"]) / (1 - values["random"])
        assert rows[label, "return_above_random"].value == pytest.approx(expected)
    episodes = pq.read_table(folder.path("episodes.parquet")).to_pandas()
    seeds = episodes.groupby("label").episode_seed.apply(tuple)
    assert set(seeds.index) == {"random", "bc", "demonstrator"} and seeds.nunique() == 1
    assert not read_run(mine).of_variant(None, "success").keys() ^ set(seeds.index)
    assert "random" not in {g.subject.label for g in read_run(mine).of_metric("success")}


def test_the_plan_names_everything_and_writes_nothing(run):
    text = "\n".join(plan(CFG, run))
    assert "10 episodes of slalom" in text
    assert "demonstrator, bc, bc_idm, flow, scratch" in text


def test_a_missing_decoder_is_named_before_anything_starts(run):
    method = MethodConfig(label="x", policy="latent_bc", action_decoder="no_such")
    with pytest.raises(ConfigError, match="decoder/no_such"):
        plan(replace(CFG, methods=(method,)), run)
    method = MethodConfig(label="x", policy="latent_bc")
    with pytest.raises(ConfigError, match=r"x: .* predicts latent actions. Name the"):
        plan(replace(CFG, methods=(method,)), run)
    method = MethodConfig(label="x", policy="scratch", action_decoder="idm")
    with pytest.raises(ConfigError, match=r"x: .* predicts true actions. Set action_decoder=null"):
        plan(replace(CFG, methods=(method,)), run)


def test_an_environment_that_looks_other_than_the_videos_is_refused(run, monkeypatch):
    monkeypatch.setattr(Slalom, "width_px", 64)
    with pytest.raises(ConfigError, match="48x48 px at 10 per second, slalom shows 48x64"):
        plan(CFG, run)


def test_without_an_environment_only_the_latents_are_looked_at(run, cluster, tmp_path):
    other = RunDir(str(tmp_path))
    cfg = EvaluateConfig(
        lam=run.stage("lam").uri,
        shards=run.stage("shards/videos").uri,
    )
    execute(JOB, cfg, other)
    table = pq.read_table(other.stage("evaluation").path("results.parquet")).to_pandas()
    assert set(table.metric) == {"probe_r2", "probe_mse"}
    assert (tmp_path / "evaluation/latent_views/latent_views.json").is_file()


def test_a_run_of_labeled_episodes_alone_is_looked_at_through_those(run, cluster, tmp_path):
    other = RunDir(str(tmp_path))
    shutil.copytree(run.stage("shards/labeled").uri, other.stage("shards/labeled").uri)
    shutil.copytree(run.stage("lam").uri, other.stage("lam").uri)
    execute(JOB, EvaluateConfig(), other)
    assert (tmp_path / "evaluation/latent_views/latent_views.json").is_file()


def test_a_lam_of_a_mixture_is_looked_at_on_the_mixture(run, tmp_path):
    """The sets and weights that it was trained on, not the run's videos alone."""
    other = write_shard_set(tmp_path / "other", size_px=48, num_clips=8)
    mine = RunDir(str(shutil.copytree(run.uri, tmp_path / "run")))
    config = Path(mine.stage("lam").path("config.yaml"))
    trained = yaml.safe_load(config.read_text())
    trained["data"] = [{"shards": None, "weight": 3.0}, {"shards": other, "weight": 1.0}]
    config.write_text(yaml.safe_dump(trained))
    own = mine.stage("shards/videos").uri
    assert viewed_shards(CFG, mine) == {own: 3.0, other: 1.0}
    assert {"shards/videos", f"shards at {other}"} <= JOB.inputs(CFG, mine).keys()
    given = replace(CFG, shards=other)
    assert viewed_shards(given, mine) == {other: 1.0}
    assert JOB.inputs(given, mine)["shards/videos"] == shards_sha256(other)


def test_several_tasks_must_get_the_same_number_of_episodes(run, monkeypatch):
    monkeypatch.setattr(Slalom, "tasks", ("a", "b", "c"))
    with pytest.raises(ConfigError, match="num_episodes must be a multiple of the 3 tasks of slal"):
        plan(CFG, run)
    with pytest.raises(ConfigError, match="got 10"):
        JOB.check(CFG, run)
    assert plan(replace(CFG, num_episodes=9), run)[1].startswith("9 episodes of slalom")
