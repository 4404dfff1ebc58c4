import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import lafp
from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.data.windows import windows_at
from lafp.evaluate.config import MethodConfig
from lafp.evaluate.measurements import load_agent
from lafp.finished.load import load_action_decoder, load_policy
from lafp.finished.saved_model import ACTION_HEAD, read_card, save_model
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.models.action_head import ActionHead, ActionHeadConfig
from lafp.objectives import OBJECTIVES
from lafp.policies import POLICIES
from lafp.types import ActionSpec, ClipBatch, ObsSpec
from ray_jobs.serve import warm_up
from tests import http_server

OBS = ObsSpec(height_px=12, width_px=16, frame_stack=2, fps=10)
ACTION = ActionSpec(dim=3, low=(-1.0, 0.0, 5.0), high=(1.0, 10.0, 6.0))
ENCODER = {"name": "small_cnn", "channels": [4], "embed_dim": 8}


def write_policy(run, name, seed=0, chunk_steps=1, frame_stack=2, actions=None, **obs_and_config):
    """Writes a small policy; of true actions where ``actions`` says what they are."""
    of_obs = ("state_dim", "condition_dim")
    dims = {dim: obs_and_config.pop(dim) for dim in of_obs if dim in obs_and_config}
    policy_class = POLICIES.get(name)
    raw = {"encoder": ENCODER, "hidden_dims": [16]}
    raw |= {"chunk_steps": chunk_steps, "execute_steps": min(2, chunk_steps)} | obs_and_config
    cfg = config_from_dict(policy_class.Config, raw)
    torch.manual_seed(seed)
    obs = replace(OBS, frame_stack=frame_stack, **dims)
    z_dim = actions.dim if actions else 4
    policy = policy_class(cfg, obs, z_dim)
    z_shape = (8, z_dim) if chunk_steps == 1 else (8, chunk_steps, z_dim)
    vectors = torch.randn(8, obs.vector_dim) if obs.vector_dim else None
    policy(torch.rand(8, 3 * frame_stack, 12, 16), 3 + torch.randn(z_shape), vectors=vectors)
    specs = {"obs": obs, "latent_action_dim": z_dim} | ({"action": actions} if actions else {})
    uri = f"{run}/policy/{name}"
    save_model(uri, kind="policy", config=cfg, specs=specs, module=policy, metrics={})


def write_decoder(run, name, policy, action=ACTION, embed_dim=8):
    cfg = ActionDecoderConfig(hidden_dims=(8,), use_obs_embedding=True)
    torch.manual_seed(1)
    decoder = ActionDecoder(cfg, action, 4, embed_dim)
    sha = read_card(f"{run}/policy/{policy}", "policy")["weights_sha256"]
    specs = {"action": action, "latent_action_dim": 4, "embed_dim": embed_dim}
    specs |= {"policy": policy, "policy_sha256": sha, "is_policy_tuned": False}
    uri = f"{run}/decoder/{name}"
    save_model(uri, kind="decoder", config=cfg, specs=specs, module=decoder, metrics={})


@pytest.fixture
def run(tmp_path):
    write_policy(tmp_path, "latent_flow")
    write_decoder(tmp_path, "flow", "latent_flow")
    return str(tmp_path)


def video(num_frames, num_episodes=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, num_episodes, 12, 16, 3), dtype=np.uint8)


def play(agent, frames, seed=0):
    agent.reset(frames.shape[1], seed)
    return np.stack([agent.act(frame) for frame in frames])


def test_the_agent_does_what_its_models_do_on_training_windows(run):
    frames = video(5)
    actions = play(lafp.Agent.load(run, noise="persistent"), frames, seed=7)
    clip = ClipBatch(
        frames=torch.from_numpy(frames).movedim(1, 0),
        num_frames=torch.tensor([5]),
        clip_key=torch.tensor([0]),
        epoch=torch.tensor([0]),
    )
    t = torch.arange(1, 4)
    window = windows_at(clip, torch.zeros_like(t), t, torch.ones_like(t), frame_stack=2)
    policy = load_policy(f"{run}/policy/latent_flow", overrides={"noise": "persistent"})
    decoder, _ = load_action_decoder(f"{run}/decoder/flow")
    _, state = policy.act(window.obs[:1], None, torch.Generator().manual_seed(7))
    for i in range(3):
        embedding = policy.encode(window.obs[i : i + 1])
        z, state = policy.act_from_embedding(embedding, state)
        torch.testing.assert_close(torch.from_numpy(actions[1 + i]), decoder.decode(z, embedding))


def test_the_first_frame_fills_its_own_stack(run):
    agent = lafp.Agent.load(run)
    frames = video(1)
    agent.reset(1, seed=3)
    action = agent.act(frames[0])
    obs = torch.from_numpy(frames[0]).permute(0, 3, 1, 2).float() / 127.5 - 1
    embedding = agent.policy.encode(torch.cat([obs, obs], dim=1))
    z, _ = agent.policy.act_from_embedding(embedding, None, torch.Generator().manual_seed(3))
    expected = agent.action_decoder.decode(z, embedding)
    torch.testing.assert_close(torch.from_numpy(action), expected)


def test_one_observation_gives_one_action_in_the_environments_units(run):
    agent = lafp.Agent.load(run)
    action = agent.act(video(1)[0, 0])
    assert action.shape == (3,) and action.dtype == np.float32
    assert (action >= ACTION.low).all() and (action <= ACTION.high).all()


def test_many_episodes_run_side_by_side(run):
    agent = lafp.Agent.load(run)
    assert play(agent, video(3, num_episodes=5)).shape == (3, 5, 3)


def test_a_seed_fixes_an_episode_and_reset_forgets_the_last(run):
    agent, frames = lafp.Agent.load(run), video(4, num_episodes=2)
    first = play(agent, frames, seed=1)
    play(agent, video(3, num_episodes=1, seed=9))
    np.testing.assert_array_equal(play(agent, frames, seed=1), first)
    assert not np.isclose(play(agent, frames, seed=2), first).all()


def test_options_of_acting_are_taken_when_loading(run):
    agent = lafp.Agent.load(run, noise="persistent", num_solver_steps=1)
    assert (agent.policy.cfg.noise, agent.policy.cfg.num_solver_steps) == ("persistent", 1)
    still = np.repeat(video(1), 3, axis=0)
    actions = play(agent, still)
    np.testing.assert_array_equal(actions[0], actions[2])


def test_a_method_of_an_evaluation_sets_how_long_noise_is_held(run):
    method = MethodConfig(
        label="held", policy="latent_flow", action_decoder="flow", noise="held", noise_hold_steps=2
    )
    actions = play(load_agent(run, method), np.repeat(video(1), 4, axis=0))
    # From the second step on the frame stack stands still, and what moves is the noise.
    assert not np.isclose(actions[1], actions[2]).all()
    np.testing.assert_array_equal(actions[2], actions[3])


def test_an_episode_that_begins_anew_plans_anew(run):
    write_policy(run, "latent_bc", chunk_steps=3)
    write_decoder(run, "cloned", "latent_bc")
    agent = lafp.Agent.load(run, action_decoder="cloned")
    agent.reset(2)
    frame = np.repeat(video(1)[0], 2, axis=0)  # what is seen never changes, so no chunk does
    actions = [agent.act(frame)]
    agent.reset_where(np.array([False, True]))
    actions += [agent.act(frame) for _ in range(3)]
    first, second = np.stack(actions, axis=1)
    assert not np.isclose(first[0], first[1]).all()
    np.testing.assert_allclose(first, first[[0, 1, 0, 1]], rtol=1e-6)  # two steps of each chunk
    np.testing.assert_allclose(second, first[[0, 0, 1, 0]], rtol=1e-6)


def test_options_that_a_policy_does_not_have_are_refused(run):
    write_policy(run, "latent_bc")
    write_decoder(run, "cloned", "latent_bc")
    with pytest.raises(ConfigError, match="Key 'noise' is not in LatentBcConfig"):
        lafp.Agent.load(run, action_decoder="cloned", noise="fresh")


def test_discrete_actions_come_out_as_choices(run):
    write_decoder(run, "buttons", "latent_flow", ActionSpec(dim=5, is_discrete=True))
    agent = lafp.Agent.load(run, action_decoder="buttons")
    action = agent.act(video(1)[0, 0])
    assert action.dtype == np.int64 and action.shape == () and 0 <= action < 5


@pytest.mark.parametrize("noise", ["fresh", "persistent"])
def test_sampled_actions_have_the_probabilities_of_the_decoder(run, noise):
    """Persistent noise gives one latent per episode, yet every step draws its own action."""
    write_decoder(run, "buttons", "latent_flow", ActionSpec(dim=5, is_discrete=True))
    agent = lafp.Agent.load(run, action_decoder="buttons", noise=noise, sample_actions=True)
    likeliest = lafp.Agent.load(run, action_decoder="buttons", noise=noise)
    num = 20_000
    frames = np.repeat(video(1)[0], num, axis=0)
    latents, logits = [], []
    decode = agent.action_decoder.decode

    def seen(latent, embedding, gumbel):
        latents.append(latent)
        logits.append(agent.action_decoder(latent, embedding))
        return decode(latent, embedding, gumbel)

    agent.action_decoder.decode = seen
    agent.reset(num, seed=3)
    drawn = [torch.from_numpy(agent.act(frames)) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    assert torch.equal(*latents) is (noise == "persistent")
    likeliest.reset(num, seed=3)
    assert (likeliest.act(frames) != drawn[0].numpy()).any()
    for actions, of_step in zip(drawn, logits, strict=True):
        expected = of_step.softmax(1)
        found = torch.nn.functional.one_hot(actions, 5).float()
        error = (found - expected).mean(0)
        assert (error.abs() < 4 * (expected * (1 - expected)).mean(0).sqrt() / num**0.5).all()


def test_continuous_actions_are_not_sampled(run):
    with pytest.raises(ConfigError, match="sample_actions: this agent's actions are continuous"):
        lafp.Agent.load(run, sample_actions=True)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((16, 12, 3), np.uint8), r"Expected observations \[12, 16, 3\].*\[16, 12, 3\]"),
        (np.zeros((3, 12, 16), np.uint8), r"shape \[3, 12, 16\]"),
        (np.zeros((2, 12, 16, 3), np.uint8), r"of 1 episode\(s\).*reset\(num_episodes"),
        (np.full((12, 16, 3), 0.5, np.float32), "got float32 from 0.5 to 0.5"),
        (np.zeros((12, 16, 3), np.int64), "Expected uint8 pixels"),
    ],
)
def test_observations_of_another_kind_are_refused(run, obs, message):
    with pytest.raises(ValueError, match=message):
        lafp.Agent.load(run).act(obs)


def test_the_decoder_is_found_where_only_one_fits(run):
    write_policy(run, "latent_bc")
    write_decoder(run, "cloned", "latent_bc")
    with pytest.raises(ConfigError, match=r"several action decoders.*cloned, flow"):
        lafp.Agent.load(run)
    assert lafp.Agent.load(run, policy="latent_bc").policy.cfg.name == "latent_bc"
    assert lafp.Agent.load(run, action_decoder="flow").policy.cfg.name == "latent_flow"


def test_models_that_do_not_belong_together_are_refused(run, tmp_path):
    write_policy(run, "latent_bc")
    with pytest.raises(ConfigError, match="another policy"):
        lafp.Agent.load(run, policy="latent_bc", action_decoder="flow")
    write_policy(run, "latent_flow", seed=5)  # trained again, its decoder is not
    with pytest.raises(ConfigError, match="Train the decoder again"):
        lafp.Agent.load(run)


def test_a_folder_without_an_agent_says_what_is_missing_and_what_to_do(run, tmp_path):
    write_policy(tmp_path / "cloned", "latent_bc", actions=ACTION)
    (tmp_path / "study" / "runs" / "seed_0").mkdir(parents=True)
    (tmp_path / "begun" / "policy" / "flow").mkdir(parents=True)
    for folder, options, message in (
        ("empty", {}, "No finished action decoder in .*empty. There is no run folder there"),
        ("begun", {}, "Run ray_jobs.train_policy and ray_jobs.train_decoder first"),
        ("study", {}, r"is a study; its runs are .*study/runs/: seed_0\."),
        ("cloned", {}, r"need none; choose one with policy=: latent_bc\."),
        (
            "cloned",
            {"policy": "latent_bc", "action_decoder": "idm"},
            r"policy/latent_bc predicts true actions .* Leave the action decoder out",
        ),
        (".", {"action_decoder": "flo"}, r"no finished decoder 'flo'. .* finished: flow\."),
        (".", {"policy": "bc"}, r"no finished policy 'bc'. .* finished: latent_flow\."),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            lafp.Agent.load(tmp_path / folder, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["policy/latent_flow", "decoder/flow"])
def test_a_model_of_which_part_is_missing_is_named(run, kind):
    folder = Path(run, kind)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(ConfigError, match=f"{kind}: model.safetensors is not the file that"):
        lafp.Agent.load(run)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing, though model\.json is"):
        lafp.Agent.load(run)
    card = (folder / "model.json").read_text()
    for damaged in (card[:40], "", "[1]"):
        (folder / "model.json").write_text(damaged)
        with pytest.raises(ConfigError, match=f"{kind}/model.json is damaged"):
            lafp.Agent.load(run)
    for name, value in (("specs", [1]), ("config", None), ("weights_sha256", 7)):
        (folder / "model.json").write_text(json.dumps(json.loads(card) | {name: value}))
        with pytest.raises(ConfigError, match=rf"model\.json: {name} is .*, which no lafp writes"):
            lafp.Agent.load(run)


def test_paths_are_taken_in_place_of_text(run, tmp_path):
    agent = lafp.Agent.load(Path(run))
    frames = video(2)
    np.testing.assert_array_equal(play(agent, frames), play(lafp.Agent.load(run), frames))
    assert storage.uri_of(Path("s3://bucket/runs/mine")) == "s3://bucket/runs/mine"
    assert storage.uri_of("s3://bucket/runs/mine") == "s3://bucket/runs/mine"
    assert storage.uri_of(Path("~/runs")) == str(Path.home() / "runs")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_one_clear_line(run, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here") as error:
        lafp.Agent.load(run, device=device)
    assert "\n" not in str(error.value) and "Use 'cpu'" in str(error.value)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64, np.bool_])
def test_states_are_numbers_of_any_type(tmp_path, dtype):
    write_policy(tmp_path, "latent_bc", state_dim=3, actions=ACTION)
    agent = lafp.Agent.load(tmp_path, policy="latent_bc")
    state, image = np.array([1, 0, 1]), video(1)[0, 0]
    expected = agent.act({"image": image, "state": state.astype(np.float32)})
    np.testing.assert_array_equal(
        agent.act({"image": image, "state": state.astype(dtype)}), expected
    )
    for wrong, message in (
        (["a", "b", "c"], r"Expected states \[1, 3\] of numbers .*got <U1 \[3\]"),
        ([1, 2], r"got int64 \[2\]"),
        ([0, 1e39, 0], "state holds a value that is not finite in float32"),
        ([0, np.nan, 0], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.act({"image": image, "state": np.array(wrong)})


def test_an_agent_needs_neither_ray_nor_pipelines(run):
    code = (
        "import sys, lafp, numpy as np\n"
        f"lafp.Agent.load({run!r}).act(np.zeros((12, 16, 3), np.uint8))\n"
        "sys.exit(bool({'ray', 'data_pipelines', 'deepspeed'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_control_rate_and_action_units_belong_to_the_run(run):
    agent = lafp.Agent.load(run)
    assert (agent.fps, agent.action, agent.obs) == (10, ACTION, OBS)


def test_a_model_of_another_version_is_refused(run):
    card = Path(f"{run}/policy/latent_flow/model.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"format": 99}))
    with pytest.raises(ConfigError, match="has format 99, this lafp reads"):
        lafp.Agent.load(run)


@pytest.mark.parametrize("noise", ["fresh", "persistent", "held", "warm_start"])
def test_an_episode_that_begins_beside_others_forgets_its_past_and_they_go_on(run, noise):
    agent, frames = lafp.Agent.load(run, noise=noise), video(5, num_episodes=2)
    undisturbed = play(agent, frames)
    agent.reset(2)
    actions = [agent.act(frame) for frame in frames[:2]]
    agent.reset_where(np.array([False, True]))
    memory, generator_state = agent._memory, agent._generator.get_state()
    actions += [agent.act(frame) for frame in frames[2:]]
    np.testing.assert_allclose(np.stack(actions)[:, 0], undisturbed[:, 0], rtol=1e-5, atol=1e-5)

    # The other place does what a new episode does with the same noise.
    assert memory is not None
    agent.reset(2)
    agent._generator.set_state(generator_state)
    new = np.stack([agent.act(frame) for frame in frames[2:]])
    np.testing.assert_allclose(np.stack(actions)[2:, 1], new[:, 1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(np.stack(actions)[2, 1], undisturbed[2, 1])


@pytest.mark.parametrize("noise", ["fresh", "persistent", "held", "warm_start"])
def test_episodes_that_end_cost_nothing_and_leave_the_others_as_they_are(run, noise):
    agent, frames = lafp.Agent.load(run, noise=noise), video(5, num_episodes=3)
    undisturbed = play(agent, frames)
    agent.reset(3)
    for step, on in enumerate(([0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [2])):
        actions = agent.act(frames[step, on])
        np.testing.assert_allclose(actions, undisturbed[step, on], rtol=1e-4, atol=1e-5)
        if step == 1:
            agent.end_where(np.array([False, True, False]))
        if step == 3:
            agent.end_where(np.array([True, False]))
    with pytest.raises(ValueError, match="Expected 1 booleans"):
        agent.end_where(np.array([True, False]))
    with pytest.raises(ValueError, match="1 episode"):
        agent.act(frames[0])


def test_a_reset_of_places_that_are_not_there_is_refused(run):
    agent = lafp.Agent.load(run)
    agent.reset(2)
    for wrong in (np.array([True]), np.array([0, 1]), [True, False, True]):
        with pytest.raises(ValueError, match="Expected 2 booleans"):
            agent.reset_where(wrong)


def test_a_bfloat16_agent_is_close_to_the_exact_one_and_solves_in_float32(run):
    frames = video(4, num_episodes=8)
    agent = lafp.Agent.load(run, dtype="bfloat16")
    dtypes = {name: p.dtype for name, p in agent.policy.named_parameters()}
    assert {d for name, d in dtypes.items() if name.startswith("encoder.")} == {torch.bfloat16}
    assert {d for name, d in dtypes.items() if name.startswith("head.")} == {torch.float32}
    error = np.abs(play(agent, frames) - play(lafp.Agent.load(run), frames))
    assert (error <= 0.01 * (np.array(ACTION.high) - ACTION.low)).all()
    assert error.max() > 0
    with pytest.raises(ValueError, match=r"float32, bfloat16, got 'int8'"):
        lafp.Agent.load(run, dtype="int8")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_agent_does_the_same_and_compiles_no_step_twice(run, monkeypatch, backend):
    # Inductor's C++ compiler takes a minute on a busy machine; what is captured is the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    frames = video(6, num_episodes=2)
    expected = play(lafp.Agent.load(run, noise="held"), frames)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    agent = lafp.Agent.load(run, noise="held", compile=True)
    np.testing.assert_allclose(play(agent, frames), expected, rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2  # the first step, and all others
    agent.reset_where(np.array([True, False]))
    for frame in frames:
        agent.act(frame)
    play(agent, frames)
    assert counters["stats"]["unique_graphs"] == 3


def count_graphs(monkeypatch):
    """Returns a function that counts graphs. The test above says what compilers make of them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


def begin_go_on_and_begin_some(agent, num_episodes):
    frames = video(3, num_episodes)
    play(agent, frames[:2])
    agent.reset_where(np.arange(num_episodes) == 0)
    return agent.act(frames[2])


def test_sessions_of_any_size_find_their_graphs_compiled(run, monkeypatch):
    num_graphs = count_graphs(monkeypatch)
    agent = lafp.Agent.load(run, noise="held", compile=True)
    warm_up(agent)
    assert num_graphs() == 6
    for num_episodes in (3, 1, 2, 16, 5, 33):
        begin_go_on_and_begin_some(agent.sibling(), num_episodes)
    assert num_graphs() == 6


def test_numbers_of_episodes_may_come_in_any_order(run, monkeypatch):
    num_graphs = count_graphs(monkeypatch)
    agents = [lafp.Agent.load(run, compile=is_compiled) for is_compiled in (True, False)]
    for num_episodes in (2, 5, 1, 7):
        actions = [begin_go_on_and_begin_some(agent, num_episodes) for agent in agents]
        np.testing.assert_allclose(*actions, rtol=1e-4, atol=1e-4)
    assert num_graphs() == 9  # more than the limit of PyTorch


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpu_agent_does_what_the_cpu_agent_does(run, compile):
    frames = video(4, num_episodes=3)
    agent = lafp.Agent.load(run, device="cuda", compile=compile)
    expected = play(lafp.Agent.load(run), frames)
    np.testing.assert_allclose(play(agent, frames), expected, rtol=1e-2, atol=1e-2)


def write_lam(run, weight=0.5):
    """Writes a small LAM with its action head, and makes the run's policy one of its latents."""
    objective_class = OBJECTIVES.get("lapo")
    raw = {"latent_action_dim": 4, "encoder": ENCODER, "fdm": {"channels": [4, 8]}}
    cfg = config_from_dict(objective_class.Config, raw | {"bottleneck": {"name": "none"}})
    torch.manual_seed(2)
    lam, head = objective_class(cfg, OBS), ActionHead(ActionHeadConfig(), ACTION, 4)
    uri = f"{run}/lam"
    save_model(uri, kind="lam", config=cfg, specs={"obs": OBS}, module=lam, metrics={})
    sha = read_card(uri, "lam")["weights_sha256"]
    specs = {"action": ACTION, "latent_action_dim": 4, "lam_sha256": sha}
    save_model(
        f"{uri}/{ACTION_HEAD}",
        kind="action_head",
        config=head.cfg,
        specs=specs,
        module=head,
        metrics={},
    )
    card = json.loads(storage.read_text(f"{run}/policy/latent_flow/model.json"))
    card["specs"]["lam_sha256"] = sha
    storage.write_text(f"{run}/policy/latent_flow/model.json", json.dumps(card))
    storage.write_text(f"{run}/policy/latent_flow/config.yaml", "lam: null\n")
    return head


def test_the_lams_own_action_head_acts_without_an_action_decoder(run):
    head = write_lam(run)
    agent = lafp.Agent.load(run, action_decoder="idm")
    frames = video(3)
    actions = play(agent, frames)
    latents = play(lafp.Agent(agent.policy, PassesOn()), frames)
    expected = head.decode(torch.from_numpy(latents)).detach().numpy()
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


class PassesOn(torch.nn.Module):
    action = ActionSpec(dim=4, low=(-1.0,) * 4, high=(1.0,) * 4)

    def decode(self, latent_action, embedding, gumbel):
        return latent_action


def test_a_lam_elsewhere_is_opened_when_the_user_names_it_and_not_when_a_model_does(run, tmp_path):
    write_lam(run)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(f"{run}/lam", elsewhere)
    with http_server.serving() as host:
        for address in (str(elsewhere), f"{host.url}/lam", "s3://bucket/lam"):
            storage.write_text(f"{run}/policy/latent_flow/config.yaml", f"lam: {address}\n")
            with pytest.raises(ConfigError, match=r"holds no LAM.*give its folder with lam="):
                lafp.Agent.load(run, action_decoder="idm")
        assert not host.hits
    frames = video(3)
    named = lafp.Agent.load(run, action_decoder="idm", lam=elsewhere)
    storage.write_text(f"{run}/policy/latent_flow/config.yaml", f"lam: {elsewhere}\n")
    evaluated = load_agent(run, MethodConfig(label="a", policy="latent_flow", action_decoder="idm"))
    np.testing.assert_array_equal(play(named, frames), play(evaluated, frames))


def test_links_of_a_strangers_study_stay_within_it(run):
    for folder in ("../lam", "a/../../../lam", "/etc"):
        storage.write_text(f"{run}/stages.json", json.dumps({"lam": folder}))
        with pytest.raises(ConfigError, match="which must name a folder"):
            lafp.Agent.load(run, action_decoder="idm")


def test_the_action_head_of_another_lam_is_refused(run):
    write_lam(run)
    card = json.loads(storage.read_text(f"{run}/policy/latent_flow/model.json"))
    card["specs"]["lam_sha256"] = "0" * 64
    storage.write_text(f"{run}/policy/latent_flow/model.json", json.dumps(card))
    with pytest.raises(ConfigError, match="another LAM"):
        lafp.Agent.load(run, action_decoder="idm")
