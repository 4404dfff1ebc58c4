"""What is known to be wrong before a start is said before it, and the folder stays as it was."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lafp import storage
from lafp.config import ConfigError, config_from_dict, config_to_dict, load_config
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.shards.sets import open_shard_set
from lafp.envs.slalom import Slalom
from lafp.finished.saved_model import save_model
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.checkpoints import Checkpoints
from lafp.train.config import TrainConfig
from lafp.train.context import to_clip_batches
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from ray_jobs import pipeline, study, train_lam
from ray_jobs.core.job import execute
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.study_config import StudyConfig
from ray_jobs.training.jobs import check
from tests.synthetic_shards import write_shard_set

OBJECTIVE = {
    "name": "lapo",
    "latent_action_dim": 4,
    "encoder": {"name": "small_cnn", "channels": [4, 4, 4], "embed_dim": 8},
    "fdm": {"channels": [4, 4], "num_res_blocks": 1},
    "bottleneck": {"name": "layernorm_noise"},
}
TRAIN = {"num_steps": 30, "global_batch_size": 8}
ENCODER = {"name": "small_cnn", "channels": [4, 4, 4], "embed_dim": 8}
LENGTHS = [(2, 2), (3, 5), (6, 9)]


@pytest.fixture(scope="module")
def shard_sets(tmp_path_factory) -> dict[tuple[int, int], str]:
    """One set per shortest and longest clip."""
    folder = tmp_path_factory.mktemp("shards")
    sets = {}
    for frames in LENGTHS:
        sets[frames] = write_shard_set(folder / f"{frames}", num_clips=8, frames=frames)
        spec = open_shard_set(sets[frames])
        assert (spec.min_clip_frames, spec.max_clip_frames) == frames
    return sets


@pytest.fixture(scope="module")
def lams(shard_sets, tmp_path_factory) -> dict[int, str]:
    """An untrained LAM per frame stack."""
    uris = {}
    for stack in (1, 2, 3):
        cfg = lam_config({}, {"frame_stack": stack})
        objective = LamTask(cfg, shard_sets[6, 9], None).module.objective
        uris[stack] = str(tmp_path_factory.mktemp("lam"))
        save_model(
            uris[stack],
            kind="lam",
            config=objective.cfg,
            specs={"obs": objective.obs},
            module=objective,
            metrics={},
        )
    return uris


def lam_config(train: dict, window: dict, **kwargs) -> TrainLamConfig:
    raw = {"objective": OBJECTIVE, "window": window, "train": TRAIN | train}
    return config_from_dict(TrainLamConfig, raw | kwargs)


def first_step(task, cfg: TrainConfig) -> None:
    """What the workers do in it, one after the other: read, cut, encode, sum up the loss."""
    for rank in range(cfg.num_workers):
        plan = MicroBatchLayout(
            demands=task.demands(),
            rank=rank,
            world_size=cfg.num_workers,
            num_rounds=cfg.gradient_accumulation,
        )
        for batch in MicroBatchReader(plan).read(0):
            loss = task.module(task.inputs(to_clip_batches(batch))).loss
            assert torch.isfinite(loss)


@settings(deadline=None, max_examples=40)
@given(
    frames=st.sampled_from(LENGTHS),
    batch=st.integers(1, 24),
    rounds=st.integers(1, 3),
    workers=st.integers(1, 3),
    stack=st.integers(1, 3),
    windows=st.integers(1, 4),
    warmup=st.integers(0, 40),
)
def test_a_lams_first_step_runs_or_is_refused(
    shard_sets, tmp_path_factory, frames, batch, rounds, workers, stack, windows, warmup
):
    parts = windows * workers * rounds
    fits = batch % parts == 0 and frames[0] > stack and warmup <= TRAIN["num_steps"]
    train = {
        "global_batch_size": batch,
        "gradient_accumulation": rounds,
        "num_workers": workers,
        "optim": {"warmup_steps": warmup},
    }
    stage = StageDir(str(tmp_path_factory.getbasetemp() / "none"), "lam")
    try:
        cfg = lam_config(train, {"frame_stack": stack, "windows_per_clip": windows})
        build_task = partial(LamTask, cfg, shard_sets[frames], None)
        check(cfg.train, stage, ["shards"], build_task)
    except ConfigError:
        assert not fits
        return
    assert fits
    first_step(build_task(), cfg.train)


@settings(deadline=None, max_examples=25)
@given(
    frames=st.sampled_from(LENGTHS),
    stack=st.integers(1, 3),
    chunk=st.integers(1, 10),
    execute_steps=st.integers(1, 10),
)
def test_a_policys_first_step_runs_or_is_refused(
    shard_sets, lams, tmp_path_factory, frames, stack, chunk, execute_steps
):
    assume(execute_steps <= chunk)
    fits = frames[0] > stack and chunk <= frames[1] - stack
    raw = {
        "policy": {
            "name": "latent_bc",
            "encoder": ENCODER,
            "hidden_dims": [8],
            "chunk_steps": chunk,
            "execute_steps": execute_steps,
        },
        "window": {"frame_stack": stack},
        "train": TRAIN,
    }
    cfg = config_from_dict(TrainPolicyConfig, raw)
    build_task = partial(PolicyTask, cfg, shard_sets[frames], lams[stack])
    stage = StageDir(str(tmp_path_factory.getbasetemp() / "none"), "policy/latent_bc")
    try:
        check(cfg.train, stage, ["shards", "lam"], build_task)
    except ConfigError as error:
        assert not fits and shard_sets[frames] in str(error)
        return
    assert fits
    first_step(build_task(), cfg.train)


# ---------------------------------------------------------------------------------------------
# Folders


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run with videos, and a LAM that has done 20 of 30 steps."""
    run = RunDir(str(tmp_path / "run"))
    videos = run.stage("shards/videos")
    videos.begin({}, {})
    videos.finish({})
    write_shard_set(Path(videos.uri), num_clips=6)
    cfg = lam_config({}, {})
    lam = run.stage("lam")
    lam.begin(cfg, dict(train_lam.JOB.inputs(cfg, run)))
    local = tmp_path / "local"
    local.mkdir()
    (local / "ddp.pt").write_text("weights")
    checkpoints = Checkpoints(lam.uri, 1)
    checkpoints.save(local, 20)
    checkpoints.finish()
    return run


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"num_steps": 10}, r"num_steps is 10, but .*lam has done 20 steps already"),
        ({"num_workers": 4}, "8 with 4 windows per clip takes 2 clips per step"),
        ({"num_steps": 19}, "has done 20 steps already. Set it to 20 or more"),
    ],
)
def test_a_refused_start_leaves_the_folder_as_it_was(run, tmp_path, train, message):
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=message):
        execute(train_lam.JOB, lam_config(train, {}), run)
    assert content(tmp_path) == before


def test_clips_that_are_too_short_for_the_stack_leave_no_new_folder(run, tmp_path):
    other = RunDir(str(tmp_path / "other"))
    cfg = lam_config({}, {"frame_stack": 6}, shards=run.stage("shards/videos").uri)
    with pytest.raises(ConfigError, match=r"has 6 frames, a window with .*6 needs 7.*min_frames=7"):
        execute(train_lam.JOB, cfg, other)
    assert not Path(other.uri).exists()


# ---------------------------------------------------------------------------------------------
# Numbers


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e400"])
def test_numbers_that_are_not_finite_are_refused_in_any_float_field(value):
    for key in ("train.optim.lr", "train.optim.weight_decay", "supervision.weight"):
        with pytest.raises(ConfigError, match=f"{key.replace('.', '[.]')}: expected a finite"):
            load_config(TrainLamConfig, "configs/train_lam/slalom.yaml", [f"{key}={value}"])
    with pytest.raises(ConfigError, match=r"optim\.betas: expected a finite"):
        load_config(
            TrainLamConfig, "configs/train_lam/slalom.yaml", [f"train.optim.betas=[0.9,{value}]"]
        )


@pytest.mark.parametrize("seed", [-1, 1 << 32, 10**30])
def test_seeds_that_no_generator_takes_are_refused(seed):
    for key in ("train.seed", "supervision.label_seed"):
        with pytest.raises(ConfigError, match=f"{key}: expected a seed from 0 to 2"):
            load_config(TrainLamConfig, "configs/train_lam/slalom.yaml", [f"{key}={seed}"])


def test_numbers_beyond_an_int64_are_refused():
    with pytest.raises(ConfigError, match="num_steps: expected a number that an int64 holds"):
        load_config(TrainLamConfig, "configs/train_lam/slalom.yaml", [f"train.num_steps={1 << 63}"])


# ---------------------------------------------------------------------------------------------
# Pipelines: before there is anything to look at

SLALOM = "configs/pipeline/slalom.yaml"
TRANSFORMER = "{width: 8, depth: 1, num_heads: 2}"
PATCHES = "{name: pixels, patch_px: 7}"
PATCHES_OF_7 = f"{{name: lapa, idm: {TRANSFORMER}, fdm: {TRANSFORMER}, patches: {PATCHES}}}"


def several(overrides: str) -> list[str]:
    """Splits ``[key=value, ...]``."""
    return overrides[1:-1].split(", ") if overrides.startswith("[") else [overrides]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_lam.window.frame_stack=8", "clip.min_frames is 4, but a window .* needs 9 frames"),
        (
            "train_policy.0.window.frame_stack=2",
            "frame_stack is 2, but train_lam.window.frame_stack is 1",
        ),
        ("train_decoder.0.policy=latent_fow", "policy is 'latent_fow', and train_policy has"),
        ("train_lam.train.num_workers=7", "does not divide into 7 workers"),
        ("train_lam.train.optim.warmup_steps=1000000", "warmup_steps 1000000 are more than"),
        (
            "train_lam.objective.bottleneck={name: fsq, levels: [8, 5, 5]}",
            "multiple of the number of fsq levels",
        ),
        (
            "train_lam.objective.bottleneck={name: vq, decay: 1.0}",
            r"decay must be in \[0, 1\), got 1",
        ),
        (f"train_lam.objective={PATCHES_OF_7}", "train_lam.objective: patch_px 7 does not divide"),
        (
            "evaluate.methods.0.policy=latent_fow",
            "evaluate.methods.0.policy=latent_fow needs policy/latent_fow, which no section",
        ),
        (
            "evaluate.methods.0.action_decoder=fast",
            "evaluate.methods.0.action_decoder=fast needs decoder/fast, which no section",
        ),
        (
            "train_decoder.*.policy=latent_bc",
            r"train_decoder.0.anchor_time: latent_bc supports anchor_time 0 .* got \(0.0, 1.0\)",
        ),
        (
            "label_latents=null",
            "train_policy.0.latents=videos needs latents/videos, .* Set label_latents.name=videos",
        ),
        (
            "evaluate.methods.0.action_decoder=null",
            "evaluate.methods.0: policy latent_bc predicts latent actions. Set action_decoder",
        ),
        (
            "[evaluate.methods.0.action_decoder=idm, train_lam.supervision.weight=0]",
            "evaluate.methods.0.action_decoder is idm, .* set train_lam.supervision.weight above 0",
        ),
        (
            "preprocess_labeled=null",
            "train_lam needs shards/labeled, .* or train_lam.supervision.weight=0",
        ),
        (
            "[train_lam.supervision.weight=0, preprocess_labeled=null]",
            "train_decoder.0 needs shards/labeled, .* set train_decoder.0.labeled_shards=",
        ),
        (
            "[preprocess=null, preprocess_labeled=null]",
            "train_lam needs shards/videos or shards/labeled, .* Add the section preprocess",
        ),
    ],
)
def test_what_sections_do_not_agree_on_is_said_before_any_stage(tmp_path, override, message):
    run = RunDir(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=message):
        pipeline.check(load_config(PipelineConfig, SLALOM, several(override)), run)
    assert not list(tmp_path.iterdir())


def test_a_policy_of_true_actions_has_no_action_decoder():
    for name in ("idm", "latent_bc"):
        with pytest.raises(ConfigError, match=r"methods.2: policy bc .* Set action_decoder=null"):
            load_config(
                PipelineConfig,
                "configs/pipeline/tiny.yaml",
                [f"evaluate.methods.2.action_decoder={name}"],
            )


def test_what_a_run_has_need_not_be_made_again(run, tmp_path):
    overrides = ["preprocess_labeled=null", "train_decoder=[]", "evaluate.methods=[]"]
    cfg = load_config(PipelineConfig, "configs/pipeline/tiny.yaml", overrides)
    cfg = replace(cfg, train_lam=lam_config({}, {}, supervision={"weight": 0}))
    with pytest.raises(ConfigError, match=r"train_bc.0 needs shards/labeled, which no section"):
        pipeline.check_config(cfg, run)
    run.stage("shards/labeled").begin({}, {})
    pipeline.check_config(cfg, run)


def test_an_environment_that_would_refuse_the_rollouts_is_found_before_the_training(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Slalom, "tasks", ("left", "right"))
    run = RunDir(str(tmp_path))
    cfg = load_config(PipelineConfig, SLALOM, ["evaluate.num_episodes=31"])
    with pytest.raises(ConfigError, match="evaluate: num_episodes must be a multiple of the 2 ta"):
        pipeline.check(cfg, run)
    pipeline.check(load_config(PipelineConfig, SLALOM, ["evaluate.num_episodes=30"]), run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"train_lam.objective={PATCHES_OF_7}"], r"train_lam\.objective: patch_px 7 does not"),
        (["evaluate.num_episodes=31"], "evaluate: num_episodes must be a multiple of the 2 ta"),
        (["collect=null", "preprocess.source=/nowhere"], "preprocess: No such file or folder"),
        (["preprocess_labeled.name=videos"], "Two sections of the pipeline write shards/videos"),
        (
            [
                "train_lam.shards={shards}",
                *(f"{key}.window.frame_stack=6" for key in ("train_lam", "train_policy.*")),
            ],
            "lam: The shortest clip .* has 6 frames, a window",
        ),
    ],
)
def test_a_study_names_the_run_that_would_be_refused(
    shard_sets, tmp_path, monkeypatch, overrides, message
):
    overrides = [item.replace("{shards}", shard_sets[6, 9]) for item in overrides]
    monkeypatch.setattr(Slalom, "tasks", ("left", "right"))
    raw = {
        "name": "s",
        "pipeline": config_to_dict(
            load_config(PipelineConfig, SLALOM, ["evaluate.num_episodes=30"])
        ),
        "axes": [{"values": [{"label": "good"}, {"label": "bad", "overrides": overrides}]}],
        "seeds": [0],
    }
    with pytest.raises(ConfigError, match=f"bad-seed_0: {message}"):
        study.JOB.check(config_from_dict(StudyConfig, raw), RunDir(str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_stage_whose_inputs_are_there_is_checked_with_the_pipeline(run):
    cfg = load_config(
        PipelineConfig,
        SLALOM,
        [
            *("collect=null", "preprocess=null", "preprocess_labeled=null"),
            *("train_lam.window.frame_stack=6", "train_policy=[]", "train_decoder=[]"),
            *("train_lam.supervision.weight=0", "evaluate.methods=[]"),
        ],
    )
    storage.delete_folder(run.stage("lam").uri)
    with pytest.raises(ConfigError, match=r"lam: The shortest clip .* has 6 frames"):
        pipeline.check(cfg, run)
