"""A tiny run of both tasks through the real loop, on real shards, behind a real LAM."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from lafp.agent import Agent
from lafp.config import ConfigError, config_from_dict
from lafp.data.labels import labeled_subset
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.windows import window_indices
from lafp.finished.load import load_action_decoder, load_policy
from lafp.finished.saved_model import read_card
from lafp.lam import load_lam
from lafp.models.latent_projection import Pca, PcaConfig
from lafp.train import transitions
from lafp.train.context import LocalContext, to_clip_batches
from lafp.train.loop import train
from lafp.train.tasks import decoder
from lafp.train.tasks.decoder import DecoderTask, TrainDecoderConfig
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from lafp.types import ActionSpec
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import SyntheticClip, moving_dot, write_clips, write_shard_set

ENCODER = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
TRAIN = {"num_steps": 6, "global_batch_size": 8, "optim": {"lr": 1e-3}}


def policy_config(name="latent_flow", **settings):
    raw = {"policy": {"name": name, "encoder": ENCODER}, "train": TRAIN, **settings}
    return config_from_dict(TrainPolicyConfig, raw)


def decoder_config(**settings):
    raw = {"name": "d", "policy": "latent_flow", "windows_per_clip": 4, "train": TRAIN, **settings}
    return config_from_dict(TrainDecoderConfig, raw)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Shards, a LAM, both policies, and one that predicts chunks, trained a little."""
    folder = tmp_path_factory.mktemp("run")
    uris = {
        "videos": write_shard_set(folder / "videos", 16, num_val_clips=4),
        "labeled": write_shard_set(folder / "labeled", 16, num_val_clips=4, has_labels=True),
        "lam": write_lam(str(folder / "lam")),
    }
    for name in ("latent_bc", "latent_flow"):
        uris[name] = str(folder / name)
        task = PolicyTask(policy_config(name), uris["videos"], uris["lam"])
        uris[f"{name}_metrics"] = train(task.cfg.train, task, LocalContext(uris[name]))
    chunks = {"name": "latent_flow", "encoder": ENCODER, "chunk_steps": 3, "execute_steps": 2}
    task = PolicyTask(policy_config(policy=chunks), uris["videos"], uris["lam"])
    uris["chunks"] = str(folder / "chunks")
    train(task.cfg.train, task, LocalContext(uris["chunks"]))
    return uris


def first_batches(task, num_steps=1, are_whole=False):
    demands = task.demands()
    if are_whole:
        demands = {name: replace(demand, draws=None) for name, demand in demands.items()}
    layout = MicroBatchLayout(demands=demands, rank=0, world_size=1, num_rounds=1)
    batches = map(to_clip_batches, MicroBatchReader(layout, 1 << 24).read_from(0))
    return [next(batches) for _ in range(num_steps)]


@pytest.mark.parametrize("name", ["latent_bc", "latent_flow"])
def test_a_trained_policy_is_exported_with_its_lam_and_its_statistics(run, name):
    assert {"val/loss", "val/latent_mse", "loss"} <= run[f"{name}_metrics"].keys()
    policy = load_policy(run[name])
    card = read_card(run[name], "policy")
    assert card["specs"]["lam_sha256"] == read_card(run["lam"], "lam")["weights_sha256"]
    assert policy.standardizer.count.item() == 6 * 8
    assert policy.obs == load_lam(run["lam"]).obs


def test_targets_are_the_frozen_lams_latent_actions_of_single_steps(run):
    task = PolicyTask(policy_config(), run["videos"], run["lam"])
    (clips,) = first_batches(task, are_whole=True)
    inputs = task.inputs(clips)
    frames = clips["videos"].frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    lam = load_lam(run["lam"])
    for obs, z in zip(inputs.obs, inputs.latent_action, strict=True):
        clip, t = (frames[:, :-1] == obs).all(dim=(2, 3, 4)).nonzero(as_tuple=True)
        candidates = lam.infer_latent_action(obs.expand(len(t), -1, -1, -1), frames[clip, t + 1])
        assert torch.isclose(candidates, z, atol=1e-5).all(dim=1).any()
    assert not inputs.latent_action.requires_grad


@pytest.mark.parametrize("chunk_steps", [1, 3])
def test_readers_send_all_frames_that_a_policy_is_trained_on(tmp_path, run, chunk_steps):
    shards = write_shard_set(tmp_path, 8, frames=(20, 30))
    policy = {"name": "latent_flow", "encoder": ENCODER, "chunk_steps": chunk_steps}
    task = PolicyTask(policy_config(policy=policy), shards, run["lam"])
    (sent,), (whole,) = first_batches(task), first_batches(task, are_whole=True)
    assert sent["videos"].frames.shape[1] < whole["videos"].frames.shape[1]
    inputs = [task.inputs(clips) for clips in (sent, whole)]
    for name in ("obs", "latent_action", "has_step"):
        torch.testing.assert_close(*(getattr(of, name) for of in inputs), rtol=0, atol=0)


def test_a_projected_policy_is_fitted_to_the_latents_of_its_first_steps(run, tmp_path):
    policy = {"name": "latent_flow", "encoder": ENCODER}
    projection = {"name": "pca", "dim": 2, "num_fit_latents": 30}
    cfg = policy_config(policy=policy | {"latent_projection": projection})
    task = PolicyTask(cfg, run["videos"], run["lam"])
    metrics = train(cfg.train, task, LocalContext(str(tmp_path)))
    loaded = load_policy(str(tmp_path))
    latents = torch.cat(
        [task.inputs(clips).latent_action for clips in first_batches(task, num_steps=4)]
    )
    alone = Pca(PcaConfig(dim=2, num_fit_latents=30), 4)
    alone.fit(latents)
    torch.testing.assert_close(loaded.projection.state_dict(), alone.state_dict())
    assert metrics["projection_explained"] == pytest.approx(alone.explained_variance.item())
    assert 0.5 < metrics["val/projection_explained"] < 1
    anchored = loaded.anchored_from_embedding(
        loaded.encode(torch.zeros(32, 3, 16, 16)), latents, 1.0
    )
    torch.testing.assert_close(anchored, alone.unproject(alone.project(latents)))


def test_a_projection_wider_than_the_latent_action_is_refused(run):
    policy = {"name": "latent_bc", "encoder": ENCODER}
    cfg = policy_config(policy=policy | {"latent_projection": {"name": "pca", "dim": 5}})
    with pytest.raises(ConfigError, match=r"policy: latent_projection.dim must be at most .* 4"):
        PolicyTask(cfg, run["videos"], run["lam"])


def test_a_chunks_targets_follow_each_other_and_end_with_their_clip(run):
    policy = {"name": "latent_flow", "encoder": ENCODER, "chunk_steps": 7}
    task = PolicyTask(policy_config(policy=policy), run["videos"], run["lam"])
    lam = load_lam(run["lam"])
    num_present = []
    for clips in first_batches(task, num_steps=3):
        batch, inputs = clips["videos"], task.inputs(clips)
        frames = batch.frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        single = PolicyTask(policy_config(), run["videos"], run["lam"]).inputs(clips)
        assert torch.equal(inputs.obs, single.obs)
        assert torch.equal(inputs.latent_action[:, 0], single.latent_action)
        assert inputs.latent_action.shape == (8, 7, 4) and inputs.has_step.shape == (8, 7)
        clip_N, t_N, _ = window_indices(batch, task.cfg.window, task.cfg.train.seed)
        for n, (clip, t) in enumerate(zip(clip_N, t_N, strict=True)):
            last = int(batch.num_frames[clip]) - 2
            expected = [bool(t + i <= last) for i in range(7)]
            assert inputs.has_step[n].tolist() == expected
            num_present.append(sum(expected))
            at = torch.arange(int(t), int(t) + 7).clamp(max=last)
            z = lam.infer_latent_action(frames[clip, at], frames[clip, at + 1])
            torch.testing.assert_close(inputs.latent_action[n], z, atol=1e-5, rtol=1e-4)
    assert min(batch.num_frames) - 1 < 7, "some clips are shorter than a chunk"
    assert 1 in num_present, "a window may begin at a clip's last transition"


def test_equal_seeds_begin_with_equal_encoders(run):
    states = [
        PolicyTask(policy_config(n), run["videos"], run["lam"]).module.policy.encoder.state_dict()
        for n in ("latent_bc", "latent_flow")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_decoder_learns_exports_and_names_its_policy(run, tmp_path):
    task = DecoderTask(decoder_config(), run["labeled"], run["latent_flow"], run["lam"])
    metrics = train(task.cfg.train, task, LocalContext(str(tmp_path)))
    for name in ("anchored", "deployed"):
        assert np.isfinite(
            [metrics[f"val/action_mse_{name}"], metrics[f"val/action_r2_{name}"]]
        ).all()
    decoder, specs = load_action_decoder(str(tmp_path))
    assert decoder.action == ActionSpec(dim=2, low=(-2.0, -2.0), high=(2.0, 2.0))
    assert specs["policy"] == "latent_flow"
    assert specs["policy_sha256"] == read_card(run["latent_flow"], "policy")["weights_sha256"]
    assert json.loads((tmp_path / "model.json").read_text())["metrics"] == pytest.approx(metrics)


@pytest.mark.parametrize(
    ("layers", "changed"),
    [
        ("last", {"head.head.3"}),
        ("head", {"head.from_embedding", "head.from_point", "head.head.1", "head.head.3"}),
        (
            "all",
            {"head.from_embedding", "head.from_point", "head.head.1", "head.head.3", "encoder"},
        ),
    ],
)
def test_a_policy_is_tuned_with_its_decoder_and_the_frozen_one_stays(
    run, tmp_path, layers, changed
):
    folder = tmp_path / "run"
    shutil.copytree(run["latent_flow"], folder / "policy" / "latent_flow")
    cfg = decoder_config(finetune={"policy_layers": layers})
    task = DecoderTask(cfg, run["labeled"], run["latent_flow"], run["lam"])
    metrics = train(cfg.train, task, LocalContext(str(folder / "decoder" / "d")))
    assert np.isfinite(metrics["val/action_mse_deployed"])
    agent = Agent.load(folder)
    frozen, tuned = load_policy(run["latent_flow"]).state_dict(), agent.policy.state_dict()
    differ = {name for name in frozen if not torch.equal(frozen[name], tuned[name])}
    assert {
        name.rpartition(".")[0] if name.startswith("head") else "encoder" for name in differ
    } == changed
    other = Agent.load(folder, policy="latent_flow", action_decoder="d")
    assert torch.equal(other.policy.head.head[3].weight, agent.policy.head.head[3].weight)


def test_an_encoder_is_not_tuned_on_other_observations_than_its_plans(run):
    cfg = decoder_config(finetune={"policy_layers": "all"})
    with pytest.raises(ConfigError, match="executes 2 steps of a chunk"):
        DecoderTask(cfg, run["labeled"], run["chunks"], run["lam"])


@pytest.mark.parametrize("policy", ["latent_flow", "chunks"])
def test_features_remembered_per_clip_equal_those_computed_anew(run, policy, monkeypatch):
    monkeypatch.setattr(transitions, "_TRANSITIONS_AT_A_TIME", 3)  # several times for each clip
    decoder._remembered.cache_clear()
    inputs = []
    for is_remembering in (True, False):
        cfg = decoder_config(anchor_time=1.0)
        task = DecoderTask(cfg, run["labeled"], run[policy], run["lam"])
        assert task._is_remembering
        task._is_remembering = is_remembering
        torch.manual_seed(0)
        inputs.append([task.inputs(clips) for clips in first_batches(task, num_steps=8)])
    for remembered, anew in zip(*inputs, strict=True):
        torch.testing.assert_close(remembered.latent_action, anew.latent_action)
        torch.testing.assert_close(remembered.transitions.embedding, anew.transitions.embedding)
        assert torch.equal(remembered.transitions.true_action, anew.transitions.true_action)


@pytest.fixture
def num_computed(run, monkeypatch):
    """Counts the clips on which a decoder's first steps run the frozen models."""
    computed = []

    def features_of_clip(batch, b, *models):
        computed.append(int(batch.clip_key[b]))
        return transitions.features_of_clip(batch, b, *models)

    def count(policy="latent_flow", shards=run["labeled"], **settings):
        computed.clear()
        task = DecoderTask(decoder_config(**settings), shards, run[policy], run["lam"])
        for clips in first_batches(task, num_steps=8):
            task.inputs(clips)
        return len(computed)

    monkeypatch.setattr(decoder, "features_of_clip", features_of_clip)
    decoder._remembered.cache_clear()
    assert count() > 0
    return count


@pytest.mark.parametrize("settings", [{}, {"anchor_time": 1.0}, {"label_fraction": 0.5}])
def test_trainings_that_differ_in_the_decoder_alone_run_the_frozen_models_once(
    num_computed, settings
):
    assert num_computed(**settings) == 0


def test_trainings_on_other_clips_or_models_run_the_frozen_models_anew(num_computed, tmp_path):
    assert num_computed(policy="chunks") > 0
    assert num_computed() > 0  # the features of one policy are kept
    assert num_computed(label_seed=1) > 0
    # Clips of the same names, as another preprocessing of the same videos has them.
    other = write_shard_set(tmp_path / "other", 16, num_val_clips=4, has_labels=True, seed=1)
    assert num_computed(label_seed=1, shards=other) > 0


def test_a_decoder_meets_every_executed_position_of_a_chunk(run):
    raw = DecoderTask(decoder_config(anchor_time=1), run["labeled"], run["latent_flow"], run["lam"])
    task = DecoderTask(decoder_config(anchor_time=1), run["labeled"], run["chunks"], run["lam"])
    torch.manual_seed(0)
    positions, is_moved = [], []
    for clips in first_batches(task, num_steps=8):
        # Whatever the position, a raw IDM latent is that of the transition it is decoded for.
        drawn = task._recalled(clips["labeled"])
        single = raw._recalled(clips["labeled"])
        torch.testing.assert_close(drawn.idm_latent, single.idm_latent)
        assert torch.equal(drawn.true_action, single.true_action)
        positions.append(drawn.position)
        is_moved.append((drawn.chunk_embedding != drawn.embedding).any(dim=1))
    positions, is_moved = torch.cat(positions), torch.cat(is_moved)
    assert set(positions.tolist()) == {0, 1}
    # A chunk is made where its first step was: at another frame, unless the dot stood still.
    assert not is_moved[positions == 0].any()
    assert is_moved[positions > 0].float().mean() > 0.5


def test_a_decoder_of_chunks_trains_and_acts(run, tmp_path):
    shutil.copytree(run["chunks"], tmp_path / "policy/chunks")
    folder = tmp_path / "decoder/d"
    cfg = decoder_config(policy="chunks")
    task = DecoderTask(cfg, run["labeled"], run["chunks"], run["lam"])
    metrics = train(cfg.train, task, LocalContext(str(folder)))
    assert np.isfinite(
        [metrics["val/action_mse_anchored"], metrics["val/action_mse_deployed"]]
    ).all()
    agent = Agent.load(str(tmp_path))
    agent.reset(3)
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16, 3), dtype=np.uint8)
    actions = np.stack([agent.act(frame) for frame in frames])
    assert actions.shape == (5, 3, 2) and np.isfinite(actions).all()


def test_latents_near_the_demonstration_are_drawn_anew_at_every_step(run):
    task = DecoderTask(decoder_config(), run["labeled"], run["latent_flow"], run["lam"])
    (clips,) = first_batches(task)
    first, second = task.inputs(clips), task.inputs(clips)
    assert torch.equal(first.transitions.embedding, second.transitions.embedding)
    assert not torch.isclose(first.latent_action, second.latent_action).any()


def test_a_range_of_anchor_times_is_drawn_per_transition(run, tmp_path):
    # A velocity moves a point by the time that is left. A head that predicts z and has hardly been
    # trained moves it as far from any start, because the last step ends in the prediction.
    policy = {"name": "latent_flow", "encoder": ENCODER}
    policy |= {"prediction": "velocity", "loss_space": "velocity"}
    policy_task = PolicyTask(policy_config(policy=policy), run["videos"], run["lam"])
    train(policy_task.cfg.train, policy_task, LocalContext(str(tmp_path)))

    def moved(anchor_time):
        cfg = decoder_config(anchor_time=anchor_time)
        task = DecoderTask(cfg, run["labeled"], str(tmp_path), run["lam"])
        raw_cfg = decoder_config(anchor_time=1)
        raw = DecoderTask(raw_cfg, run["labeled"], str(tmp_path), run["lam"])
        (clips,) = first_batches(task)
        difference = task.inputs(clips).latent_action - raw.inputs(clips).latent_action
        return difference.norm(dim=1)

    torch.manual_seed(0)
    assert moved([1.0, 1.0]).max() < 1e-5
    assert moved([0.99, 1.0]).max() < moved([0.0, 0.1]).min()


@pytest.mark.parametrize("use_obs_embedding", [False, True])
def test_a_decoder_reads_the_observation_where_configured(run, tmp_path, use_obs_embedding):
    decoder = {"hidden_dims": [16], "use_obs_embedding": use_obs_embedding}
    task = DecoderTask(
        decoder_config(action_decoder=decoder), run["labeled"], run["latent_flow"], run["lam"]
    )
    train(task.cfg.train, task, LocalContext(str(tmp_path)))
    loaded, _ = load_action_decoder(str(tmp_path))
    latent, embeddings = torch.randn(5, 4), torch.randn(2, 5, 16)
    first, second = (loaded.decode(latent, embedding) for embedding in embeddings)
    assert torch.equal(first, second) != use_obs_embedding


def write_choices(folder):
    """Clips whose action is a choice: whether the dot moves right (0), left (1) or neither (2)."""
    clips = []
    for index in range(24):
        frames, steps = moving_dot(9, index)
        choice = np.select([steps[:, 1] > 0, steps[:, 1] < 0], [0, 1], 2).astype(np.int64)
        split = "val" if index >= 20 else "train"
        clips.append(SyntheticClip(frames=frames, true_action=choice, split=split))
    return write_clips(folder, clips, clips_per_shard=4, seed=0, max_action=0)


def test_discrete_actions_are_learned_as_choices(run, tmp_path):
    labeled = write_choices(tmp_path / "choices")
    cfg = decoder_config(anchor_time=1.0, train=TRAIN | {"num_steps": 200, "optim": {"lr": 1e-2}})
    task = DecoderTask(cfg, labeled, run["latent_flow"], run["lam"])
    assert task.action == ActionSpec(dim=3, is_discrete=True)
    metrics = train(cfg.train, task, LocalContext(str(tmp_path / "decoder")))
    assert metrics["loss"] < 0.9 * np.log(3), "better than knowing nothing"
    for name in ("anchored", "deployed"):
        assert 0 <= metrics[f"val/action_accuracy_{name}"] <= 1
    loaded, _ = load_action_decoder(str(tmp_path / "decoder"))
    choices = loaded.decode(torch.randn(50, 4), torch.zeros(50, 16))
    assert choices.dtype == torch.int64 and set(choices.tolist()) <= {0, 1, 2}


def test_a_label_fraction_limits_the_clips_that_are_read(run):
    cfg = decoder_config(label_fraction=0.25, label_seed=3)
    task = DecoderTask(cfg, run["labeled"], run["latent_flow"], run["lam"])
    allowed = labeled_subset(run["labeled"], "train", 0.25, 3)
    order = task.demands()["labeled"].order
    assert order.only_clips == allowed and order.num_clips == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor_time": 1.5}, r"anchor_time must be in \[0, 1\]"),
        ({"anchor_time": [0.6, 0.4]}, r"anchor_time must be in \[0, 1\]"),
        ({"label_fraction": 0.0}, r"label_fraction must be in \(0, 1\]"),
        ({"windows_per_clip": 3}, "no multiple of windows_per_clip 3"),
        ({"anchor_time": 1, "finetune": {}}, "nothing would train the policy's head"),
    ],
)
def test_impossible_decoder_configs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decoder_config(**settings)


def test_a_policy_of_many_steps_is_refused():
    with pytest.raises(ConfigError, match="max_offset_steps must be 1, got 10"):
        policy_config(window={"max_offset_steps": 10})


def test_what_does_not_belong_together_is_refused(run, tmp_path):
    other_lam = write_lam(str(tmp_path / "lam"), seed=1)
    with pytest.raises(ConfigError, match="trained on another latent action model"):
        DecoderTask(decoder_config(), run["labeled"], run["latent_flow"], other_lam)
    with pytest.raises(ConfigError, match="anchor_time: latent_bc supports anchor_time 0"):
        DecoderTask(decoder_config(), run["labeled"], run["latent_bc"], run["lam"])
    with pytest.raises(ConfigError, match="has no actions"):
        DecoderTask(decoder_config(), run["videos"], run["latent_flow"], run["lam"])
    with pytest.raises(ConfigError, match=r"window.frame_stack is 2, the LAM .* with 1"):
        PolicyTask(policy_config(window={"frame_stack": 2}), run["videos"], run["lam"])
    small = write_lam(str(tmp_path / "small"), size_px=8)
    with pytest.raises(ConfigError, match="holds frames of 16x16 px"):
        PolicyTask(policy_config(), run["videos"], small)


def test_sets_without_a_val_split_are_trained_on_without_measurements(run, tmp_path):
    shards = write_shard_set(tmp_path / "train_only")
    task = PolicyTask(policy_config(), shards, run["lam"])
    assert task.evaluate(task.module) == {}
