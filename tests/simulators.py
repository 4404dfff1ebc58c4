"""What tests of simulated environments share."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest
import torch

from lafp.config import ConfigError
from lafp.envs.mujoco.rendering import use_offscreen_gl


def skip_without(package: str) -> None:
    """Skips the module where a simulator, or a library that draws for it, is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
    try:
        use_offscreen_gl()
    except ConfigError as error:
        pytest.skip(str(error), allow_module_level=True)


def save_random_expert(path, obs_dim: int = 17, action_dim: int = 6) -> str:
    """A checkpoint in the layout of dunnolab/laom that nobody trained."""
    generator = torch.Generator().manual_seed(0)
    sizes = [obs_dim, 16, 16, action_dim]
    weights = {"obs_rms.mean": torch.zeros(obs_dim), "obs_rms.var": torch.ones(obs_dim)}
    for number, (num_in, num_out) in zip((0, 2, 4), pairwise(sizes), strict=True):
        weights[f"actor_mean.{number}.weight"] = torch.randn(num_out, num_in, generator=generator)
        weights[f"actor_mean.{number}.bias"] = torch.zeros(num_out)
    torch.save(weights, path)
    return str(path)


def demonstrate(env, seeds, num_steps: int):
    """Frames [T + 1, N, H, W, 3], actions [T, N, A] and the last result."""
    frames, actions, result = [env.reset(np.asarray(seeds))], [], None
    for _ in range(num_steps):
        actions.append(env.expert())
        result = env.step(actions[-1])
        frames.append(result.obs)
    return np.stack(frames), np.stack(actions), result
