"""Exported agents against the agent itself, step by step, with episodes that begin in between."""

import json
import subprocess
import sys
from dataclasses import astuple, dataclass
from itertools import product

import numpy as np
import pytest
import torch

import lafp
from lafp.config import ConfigError
from lafp.finished.load import load_policy
from lafp.types import ActionSpec
from tests.lafp.test_agent import ACTION, video, write_decoder, write_policy

NUM_STEPS = 5
CARD = "lafp_agent.json"
RUN_WITHOUT_LAFP = """
import json, sys
sys.modules["lafp"] = None
import numpy as np, torch
folder = sys.argv[1]
found = {"lafp_agent.json": ""}
step = torch.export.load(f"{folder}/agent.pt2", extra_files=found).module()
inputs = np.load(f"{folder}/inputs.npz")
state = [
    torch.zeros((3, *s["shape"]), dtype=getattr(torch, s["dtype"]))
    for s in json.loads(found["lafp_agent.json"])["state"]
]
actions = []
for given in zip(*(inputs[name] for name in sys.argv[2:])):
    action, *state = step(*map(torch.from_numpy, given), *state)
    actions.append(action.numpy())
np.save(f"{folder}/actions.npy", np.stack(actions))
"""


def make_agent(folder, case, *, dtype="float32", is_discrete=False, sample=False, **config):
    """The agent of one case of the matrix; ``config`` changes its policy."""
    policy, noise = (*case.policy.split("-"), None)[:2]
    dims = {name: dim for name, dim in DIMS.items() if name in case.inputs}
    config |= {"frame_stack": case.frame_stack, "chunk_steps": case.chunk_steps} | dims
    if noise:
        config |= {"noise": noise, "noise_hold_steps": 2, "num_solver_steps": 2}
    if policy == "cloned":
        write_policy(folder, "latent_bc", actions=ACTION, **config)
        return lafp.Agent.load(folder, policy="latent_bc", dtype=dtype)
    write_policy(folder, policy, **config)
    action = ActionSpec(dim=5, is_discrete=True) if is_discrete else ACTION
    embed_dim = load_policy(f"{folder}/policy/{policy}").embed_dim
    write_decoder(folder, "decoder", policy, action, embed_dim)
    return lafp.Agent.load(folder, dtype=dtype, sample_actions=sample)


def played(agent, num_episodes):
    """Inputs of some steps and the agent's actions; the last episode begins anew at step 3."""
    agent.reset(num_episodes, seed=5)
    generator = torch.Generator().manual_seed(5)
    frames = video(NUM_STEPS, num_episodes)
    is_first = np.zeros((NUM_STEPS, num_episodes), np.bool_)
    is_first[0], is_first[3, -1] = True, True
    rng, dims = np.random.default_rng(0), agent.policy.obs.vector_dims
    vectors = {
        name: rng.normal(size=(NUM_STEPS, num_episodes, dim)).astype(np.float32)
        for name, dim in dims.items()
    }
    noise, actions = [], []
    for step, frame in enumerate(frames):
        if step:
            agent.reset_where(is_first[step])
        noise.append(torch.randn(num_episodes, agent.step.noise_dim, generator=generator).numpy())
        seen = {name: array[step] for name, array in vectors.items()}
        actions.append(agent.act({"image": frame, **seen} if seen else frame))
    inputs = {"frame": frames, "is_first": is_first, "noise": np.stack(noise)}
    inputs |= {"vectors": np.concatenate(list(vectors.values()), axis=2)} if vectors else {}
    return inputs, np.stack(actions)


def play_pt2(path, given):
    """Actions of a ``.pt2`` file, its state carried from step to step."""
    found = {CARD: ""}
    step = torch.export.load(path, extra_files=found).module()
    num = given["is_first"].shape[1]
    state = [
        torch.zeros((num, *tensor["shape"]), dtype=getattr(torch, tensor["dtype"]))
        for tensor in json.loads(found[CARD])["state"]
    ]
    actions = []
    for now in zip(*given.values(), strict=True):
        action, *state = step(*map(torch.from_numpy, now), *state)
        actions.append(action.numpy())
    return np.stack(actions)


def play_onnx(path, given):
    """Like ``play_pt2``, of an ``.onnx`` file."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    card = json.loads(session.get_modelmeta().custom_metadata_map[CARD])
    num, state = given["is_first"].shape[1], {}
    for tensor in card["state"]:
        state[f"state_{tensor['name']}"] = np.zeros((num, *tensor["shape"]), tensor["dtype"])
    actions = []
    for now in zip(*given.values(), strict=True):
        action, *after = session.run(None, dict(zip(given, now, strict=True)) | state)
        state = dict(zip(state, after, strict=True))
        actions.append(action)
    return np.stack(actions)


def check_export(agent, folder, suffix, atol=1e-4):
    """The file does what the agent does, for one episode and for three."""
    path = folder / f"agent.{suffix}"
    agent.export(path)
    play = play_pt2 if suffix == "pt2" else play_onnx
    for num_episodes in (1, 3):
        given, expected = played(agent, num_episodes)
        np.testing.assert_allclose(play(str(path), given), expected, rtol=1e-4, atol=atol)


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    policy: str
    """Name, and noise where it has any; ``cloned`` is ``latent_bc`` of true actions."""
    frame_stack: int
    chunk_steps: int
    inputs: str
    """Beside the image."""

    def __str__(self) -> str:
        return f"{self.policy},stack={self.frame_stack},chunk={self.chunk_steps},{self.inputs}"


DIMS = {"state_dim": 2, "condition_dim": 3}
NOISES = ("fresh", "persistent", "held", "warm_start")
KINDS = ["latent_bc", "cloned"]
KINDS += [f"{name}-{noise}" for name in ("latent_flow", "latent_mean_flow") for noise in NOISES]
INPUTS = ("image", "state_dim", "condition_dim", "state_dim condition_dim")
MATRIX = [
    Case(*cell)
    for cell in product(KINDS, (1, 2), (1, 3), INPUTS)
    if cell[0] != "cloned" or cell[2] == 1  # true actions are cloned one at a time
]
# Every value of every axis, and all agents of the demo: frame stack 1, no memory, the image alone.
COVER = [
    ("pt2", Case("latent_flow-fresh", 1, 1, "image")),
    ("onnx", Case("latent_flow-fresh", 1, 1, "image")),
    ("pt2", Case("latent_bc", 1, 3, "state_dim")),
    ("pt2", Case("cloned", 1, 1, "image")),
    ("onnx", Case("latent_flow-held", 2, 1, "state_dim condition_dim")),
    ("pt2", Case("latent_flow-warm_start", 1, 3, "image")),
    ("pt2", Case("latent_mean_flow-persistent", 2, 1, "condition_dim")),
]
quiet = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
pytestmark = pytest.mark.usefixtures("one_thread")  # the models are tiny


@quiet
@pytest.mark.parametrize(("suffix", "case"), COVER, ids=str)
def test_an_exported_agent_does_the_same(tmp_path, suffix, case):
    check_export(make_agent(tmp_path, case), tmp_path, suffix)


def test_the_cover_holds_every_value_of_every_axis():
    def values(cases):
        kinds, *axes = zip(*map(astuple, cases), strict=True)
        parts = {part for kind in kinds for part in kind.split("-")}
        return [parts, *map(set, axes)]

    assert all(case in MATRIX for _, case in COVER)
    assert values([case for _, case in COVER]) == values(MATRIX)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("case", MATRIX, ids=str)
def test_every_exported_agent_does_the_same(tmp_path, suffix, case):
    check_export(make_agent(tmp_path, case), tmp_path, suffix)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize(
    "options",
    [
        {"is_discrete": True},
        {"sample": True, "is_discrete": True},
        {"dtype": "bfloat16"},
        {"encoder": {"name": "impala", "channels": [4, 4]}},
        {"encoder": {"name": "vit", "patch_size_px": 4, "width": 8, "depth": 1, "num_heads": 2}},
        {"latent_projection": {"name": "pca", "dim": 3}},
        {"standardizer": {"name": "global"}},
        {"prediction": "velocity", "loss_space": "velocity"},
        {"solver": "heun", "prediction": "velocity", "loss_space": "velocity"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_agents_of_every_option_export(tmp_path, suffix, options):
    agent = make_agent(tmp_path, Case("latent_flow-fresh", 1, 1, "image"), **options)
    # ONNX runs the encoder in float32: its actions are as near to the agent's as the exact ones.
    atol = 0.1 if options.get("dtype") == "bfloat16" else 1e-4
    check_export(agent, tmp_path, suffix, atol)


def test_an_exported_agent_needs_no_lafp(tmp_path):
    agent = make_agent(tmp_path, Case("latent_bc", 2, 1, "state_dim"))
    agent.export(tmp_path / "agent.pt2")
    inputs, expected = played(agent, 3)
    np.savez(tmp_path / "inputs.npz", **inputs)
    command = [sys.executable, "-c", RUN_WITHOUT_LAFP, str(tmp_path), *inputs]
    subprocess.run(command, check=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    actions = np.load(tmp_path / "actions.npy")
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a \.pt2 or an \.onnx file"):
        make_agent(tmp_path, Case("latent_bc", 1, 1, "image")).export(tmp_path / "agent.trt")
