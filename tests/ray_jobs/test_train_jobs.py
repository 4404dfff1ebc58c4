"""What the three training jobs read, and what their plans say. Nothing is trained."""

from pathlib import Path

import pytest

from lafp.config import ConfigError, config_from_dict
from lafp.data.shards.sets import shards_sha256
from lafp.finished.saved_model import read_card, save_model
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.tasks.behavior_cloning import TrainBcConfig
from lafp.train.tasks.decoder import TrainDecoderConfig
from lafp.train.tasks.lam import TrainLamConfig
from lafp.train.tasks.policy import TrainPolicyConfig
from ray_jobs import train_bc, train_decoder, train_lam, train_policy
from ray_jobs.core.job import state_of
from tests.synthetic_shards import write_shard_set

TRAIN = {"num_steps": 30, "global_batch_size": 8, "num_workers": 2}
LAM = {
    "objective": {
        "name": "lapo",
        "latent_action_dim": 4,
        "encoder": {"name": "small_cnn", "channels": [4, 4, 4], "embed_dim": 8},
        "fdm": {"channels": [4, 4], "num_res_blocks": 1},
        "bottleneck": {"name": "layernorm_noise"},
    },
    "train": TRAIN,
}

POLICY = {"policy": {"name": "latent_bc", "encoder": {"name": "small_cnn"}}, "train": TRAIN}


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(str(tmp_path / "run"))


def complete(stage: StageDir, config: dict, inputs: dict[str, str] | None = None) -> StageDir:
    stage.begin(config, inputs or {})
    stage.finish({})
    return stage


def shards(run: RunDir, name: str, **kwargs) -> StageDir:
    stage = complete(run.stage(f"shards/{name}"), {"name": name, **kwargs})
    write_shard_set(Path(stage.uri), num_clips=6, has_labels=name == "labeled")
    return stage


def lam_config(**kwargs) -> TrainLamConfig:
    return config_from_dict(TrainLamConfig, LAM | kwargs)


def test_a_lam_reads_the_runs_videos_and_labels(run):
    videos, labeled = shards(run, "videos"), shards(run, "labeled")
    found = train_lam.resolve(lam_config(), run)
    assert [item.uri for item in found if item] == [labeled.uri, videos.uri]
    assert train_lam.JOB.inputs(lam_config(), run) == {
        "shards": videos.fingerprint(),
        "labeled_shards": labeled.fingerprint(),
    }


def test_without_videos_a_lam_reads_the_labeled_clips(run):
    labeled = shards(run, "labeled")
    found = train_lam.resolve(lam_config(), run)
    assert [item.uri for item in found if item] == [labeled.uri, labeled.uri]


def test_without_labels_a_lam_trains_on_videos_alone(run):
    shards(run, "videos")
    assert train_lam.resolve(lam_config(), run)[0] is None
    assert train_lam.build_task(lam_config(), run).args[2] is None


def test_shards_and_labels_may_both_come_from_elsewhere(run, tmp_path):
    own = {name: write_shard_set(tmp_path / name, has_labels=name == "b") for name in ("a", "b")}
    cfg = lam_config(shards=own["a"], labeled_shards=own["b"])
    assert [item.uri for item in train_lam.resolve(cfg, run) if item] == [own["b"], own["a"]]
    with pytest.raises(ConfigError, match=r"labeled_shards: there is no shard set at .*/nothing"):
        train_lam.resolve(lam_config(shards=own["a"], labeled_shards=f"{tmp_path}/nothing"), run)


def test_a_mixture_reads_the_runs_own_videos_and_others(run, tmp_path):
    videos = shards(run, "videos")
    other = write_shard_set(tmp_path / "other", num_clips=4, seed=1)
    cfg = lam_config(data=[{"weight": 3.0}, {"shards": other}])
    task = train_lam.build_task(cfg, run)()
    assert task.shard_sets == (videos.uri, other)
    assert train_lam.JOB.inputs(cfg, run)["data.1.shards"] == shards_sha256(other)
    assert "clips of stream 'train': 10, 2 per step" in "\n".join(train_lam.JOB.plan(cfg, run))


def test_shards_from_elsewhere_are_known_by_their_content(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard_set(tmp_path / "mine", num_clips=3)
    before = train_lam.JOB.inputs(lam_config(shards="mine"), run)
    assert before == {"shards": shards_sha256(str(tmp_path / "mine"))}
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert train_lam.JOB.inputs(lam_config(shards="moved"), run) == before
    write_shard_set(tmp_path / "mine", num_clips=3, seed=1)
    cfg = lam_config(shards="mine")
    run.stage("lam").begin(cfg, before)
    with pytest.raises(
        ConfigError, match=r"lam was made with other inputs: shards was '.*--accept"
    ):
        state_of(train_lam.JOB, cfg, run)


def test_a_path_that_holds_no_shards_is_said_at_once(run, tmp_path):
    with pytest.raises(ConfigError, match=r"shards: there is no shard set at .*/nothing"):
        train_lam.JOB.inputs(lam_config(shards=str(tmp_path / "nothing")), run)


def test_a_lam_to_start_from_is_an_input_known_by_its_weights(run, tmp_path):
    shards(run, "videos")
    objective = train_lam.build_task(lam_config(), run)().module.objective
    uri = str(tmp_path / "other")
    save_model(
        uri,
        kind="lam",
        config=objective.cfg,
        specs={"obs": objective.obs},
        module=objective,
        metrics={},
    )
    cfg = lam_config(init_from=uri)
    digest = read_card(uri, "lam")["weights_sha256"]
    assert train_lam.JOB.inputs(cfg, run)["init_from"] == digest
    assert train_lam.build_task(cfg, run).args[3] == uri
    assert f"init_from: {uri}" in train_lam.JOB.plan(cfg, run)


def test_a_missing_stage_says_which_job_and_which_key(run):
    with pytest.raises(ConfigError, match=r"'shards/videos' is not complete.*shards=FOLDER"):
        train_lam.JOB.inputs(lam_config(), run)
    shards(run, "videos")
    cfg = config_from_dict(TrainPolicyConfig, POLICY)
    with pytest.raises(ConfigError, match=r"Stage 'lam' is not complete.*lam=FOLDER"):
        train_policy.JOB.inputs(cfg, run)


def test_a_half_made_shard_set_is_not_read(run):
    run.stage("shards/videos").begin({}, {})
    shards(run, "labeled")
    with pytest.raises(ConfigError, match="'shards/videos' is not complete"):
        train_lam.JOB.inputs(lam_config(), run)


def test_a_decoder_reads_the_lam_that_its_policy_was_trained_on(run, tmp_path):
    shards(run, "labeled")
    own = complete(run.stage("lam"), {"objective": "lapo"})
    cfg = config_from_dict(
        TrainDecoderConfig,
        {"name": "d", "policy": "latent_flow", "windows_per_clip": 4, "train": TRAIN},
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text('{"kind": "lam", "weights_sha256": "0"}')
    for lam, uri in ((None, own.uri), (str(tmp_path / "other"), str(tmp_path / "other"))):
        complete(run.stage("policy/latent_flow"), {"lam": lam})
        labeled, policy, found = train_decoder.resolve(cfg, run)
        assert labeled.uri == run.stage("shards/labeled").uri
        assert policy.uri == run.stage("policy/latent_flow").uri and found.uri == uri
    assert train_decoder.JOB.stage(cfg) == "decoder/d"


def test_behavior_cloning_reads_the_labels_and_nothing_else(run):
    labeled = shards(run, "labeled")
    cfg = config_from_dict(TrainBcConfig, {"name": "bc", **POLICY})
    assert train_bc.JOB.inputs(cfg, run) == {"labeled_shards": labeled.fingerprint()}
    assert train_bc.JOB.stage(cfg) == "policy/bc"
    assert "clips of stream 'labeled': 6, 2 per step" in "\n".join(train_bc.JOB.plan(cfg, run))


def test_a_decoder_of_true_actions_is_refused(run):
    shards(run, "labeled")
    complete(run.stage("policy/bc"), {"name": "bc"})
    raw = {"name": "d", "policy": "bc", "windows_per_clip": 4, "train": TRAIN}
    cfg = config_from_dict(TrainDecoderConfig, raw)
    with pytest.raises(ConfigError, match=r"policy/bc predicts true actions \(train_bc\)"):
        train_decoder.JOB.inputs(cfg, run)


def test_another_lam_makes_another_policy(run):
    shards(run, "videos")
    cfg = config_from_dict(TrainPolicyConfig, POLICY)
    complete(run.stage("lam"), {"seed": 0})
    before = train_policy.JOB.inputs(cfg, run)
    complete(run.stage("lam"), {"seed": 1})
    after = train_policy.JOB.inputs(cfg, run)
    assert before["lam"] != after["lam"] and before["shards"] == after["shards"]


def test_the_plan_counts_parameters_clips_epochs_and_workers(run):
    shards(run, "videos")
    text = "\n".join(train_lam.JOB.plan(lam_config(), run))
    assert "clips of stream 'train': 6, 2 per step, 10 epochs" in text
    assert "steps: 30 of 8 windows" in text
    assert "workers: 2 on CPUs, ddp, fp32; micro-batch 4, 1 per step" in text
    assert "2 Ray Data readers, keeping up to 1,024 MiB each" in text
    num_parameters = int(text.split("parameters: ")[1].split()[0].replace(",", ""))
    module = train_lam.build_task(lam_config(), run)().module
    assert num_parameters == sum(p.numel() for p in module.parameters() if p.requires_grad) > 0
