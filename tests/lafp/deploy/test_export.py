"""Exported agents against the agent itself, step by step, with episodes that begin in between."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import lafp
from lafp.config import ConfigError
from tests.lafp.test_agent import video, write_decoder, write_policy

NUM_STEPS = 5
RUN_WITHOUT_LAFP = """
import json, sys
sys.modules["lafp"] = None
import numpy as np, torch
folder = sys.argv[1]
found = {"lafp_agent.json": ""}
step = torch.export.load(f"{folder}/agent.pt2", extra_files=found).module()
card = json.loads(found["lafp_agent.json"])
for n in (1, 3):
    inputs = np.load(f"{folder}/inputs_{n}.npz")
    state = [
        torch.zeros((n, *s["shape"]), dtype=getattr(torch, s["dtype"])) for s in card["state"]
    ]
    actions = []
    for given in zip(*(inputs[name] for name in sys.argv[2:])):
        action, *state = step(*map(torch.from_numpy, given), *state)
        actions.append(action.numpy())
    np.save(f"{folder}/actions_{n}.npy", np.stack(actions))
"""


def make_agent(folder, policy="latent_flow", chunk_steps=1, dims=(0, 0), **options):
    state_dim, condition_dim = dims
    write_policy(
        folder, policy, chunk_steps=chunk_steps, state_dim=state_dim, condition_dim=condition_dim
    )
    write_decoder(folder, "decoder", policy, embed_dim=8 + sum(dims))
    return lafp.Agent.load(str(folder), **options)


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
        noise.append(torch.randn(num_episodes, agent.policy.noise_dim, generator=generator).numpy())
        seen = {name: array[step] for name, array in vectors.items()}
        actions.append(agent.act({"image": frame, **seen} if seen else frame))
    inputs = {"frame": frames, "is_first": is_first, "noise": np.stack(noise)}
    inputs |= {"vectors": np.concatenate(list(vectors.values()), axis=2)} if vectors else {}
    return inputs, np.stack(actions)


@pytest.mark.parametrize(
    ("policy", "noise", "chunk_steps", "dims"),
    [
        ("latent_flow", "held", 1, (2, 3)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("latent_flow", "fresh", 1, (0, 0)),
                ("latent_flow", "persistent", 1, (0, 0)),
                ("latent_flow", "warm_start", 1, (0, 0)),
                ("latent_flow", "warm_start", 3, (0, 0)),
                ("latent_mean_flow", "fresh", 3, (0, 0)),
                ("latent_bc", None, 1, (2, 0)),
            )
        ),
    ],
)
def test_an_exported_agent_does_the_same_without_lafp(tmp_path, policy, noise, chunk_steps, dims):
    agent = make_agent(tmp_path, policy, chunk_steps, dims, noise=noise)
    agent.export(f"{tmp_path}/agent.pt2")
    expected = {}
    for n in (1, 3):
        inputs, expected[n] = played(agent, n)
        np.savez(tmp_path / f"inputs_{n}.npz", **inputs)
    command = [sys.executable, "-c", RUN_WITHOUT_LAFP, str(tmp_path), *inputs]
    subprocess.run(command, check=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    for n in (1, 3):
        actions = np.load(tmp_path / f"actions_{n}.npy")
        np.testing.assert_allclose(actions, expected[n], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_onnx_agent_is_exact_to_a_ten_thousandth(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    agent = make_agent(tmp_path, noise="held")
    agent.export(f"{tmp_path}/agent.onnx")
    session = onnxruntime.InferenceSession(f"{tmp_path}/agent.onnx")
    card = json.loads(session.get_modelmeta().custom_metadata_map["lafp_agent.json"])
    assert (card["obs"]["fps"], card["action"]["high"]) == (10, [1.0, 10.0, 6.0])
    names = [f"state_{tensor['name']}" for tensor in card["state"]]
    for n in (1, 3):
        inputs, expected = played(agent, n)
        state = [np.zeros((n, *t["shape"]), t["dtype"]) for t in card["state"]]
        for step in range(NUM_STEPS):
            now = {name: values[step] for name, values in inputs.items()}
            action, *state = session.run(None, now | dict(zip(names, state, strict=True)))
            np.testing.assert_allclose(action, expected[step], rtol=1e-4, atol=1e-4)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a \.pt2 or an \.onnx file"):
        make_agent(tmp_path).export(f"{tmp_path}/agent.trt")
