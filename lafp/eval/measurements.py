"""The measurements of an evaluation.

Each is one call that needs only URIs and configs, so that it can run in a process of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lafp.agent import Agent
from lafp.data.labels import action_spec
from lafp.data.randomness import derive_seed
from lafp.envs import ENVS
from lafp.envs.base import VectorEnv
from lafp.eval.config import LatencyConfig, MethodConfig
from lafp.eval.latency import Latency, measure_latency
from lafp.eval.latent_views import write_latent_views
from lafp.eval.open_loop import open_loop_errors
from lafp.eval.rollout import Actor, Expert, RolloutResult, rollout
from lafp.train.tasks.held_out import HeldOutClips

MAX_VAL_CLIPS = 256


def load_agent(run_uri: str, method: MethodConfig) -> Agent:
    """The agent of one method.

    Raises:
        ConfigError: A model is missing, or they do not belong together.
    """
    return Agent.load(run_uri, policy=method.policy, decoder=method.decoder, **method.overrides)


def measure_rollouts(
    run_uri: str,
    env_cfg: Any,
    method: MethodConfig | None,
    seeds: np.ndarray,
    num_recorded: int,
    seed: int,
) -> RolloutResult:
    """Episodes of one method; None means the demonstrator."""
    torch.set_num_threads(1)
    env: VectorEnv = ENVS.get(env_cfg.name)(env_cfg)
    actor: Actor = load_agent(run_uri, method) if method else Expert(env)
    return rollout(env, actor, seeds, num_recorded=num_recorded, seed=seed)


def measure_action_error(
    run_uri: str, method: MethodConfig, labeled_shards: str, seed: int
) -> dict[str, float]:
    """Errors on held-out labeled clips; empty if the set has none."""
    torch.set_num_threads(1)
    batches = list(HeldOutClips(labeled_shards, MAX_VAL_CLIPS).batches(torch.device("cpu")))
    if not batches:
        return {}
    agent = load_agent(run_uri, method)
    return open_loop_errors(agent, batches, action_spec(labeled_shards), seed)


def measure_latencies(
    run_uri: str,
    env_cfg: Any,
    methods: Sequence[MethodConfig],
    baseline: str | None,
    cfg: LatencyConfig,
) -> dict[int, dict[str, Latency]]:
    """Time of one action: batch size -> label -> latency."""
    torch.set_num_threads(1)
    env: VectorEnv = ENVS.get(env_cfg.name)(env_cfg)
    agents = {method.label: load_agent(run_uri, method) for method in methods}
    return {
        size: _latencies(agents, env.reset(np.arange(size)), baseline, cfg.num_rounds)
        for size in cfg.batch_sizes
    }


def _latencies(
    agents: Mapping[str, Agent], obs: np.ndarray, baseline: str | None, num_rounds: int
) -> dict[str, Latency]:
    for agent in agents.values():
        agent.reset(len(obs))
    calls = {label: lambda agent=agent: agent.act(obs) for label, agent in agents.items()}
    return measure_latency(calls, num_rounds=num_rounds, baseline=baseline)


def measure_latent_views(lam_uri: str, shards_uri: str, out_uri: str, seed: int) -> dict[str, Any]:
    """Pictures and statistics of the latent actions; see ``write_latent_views``."""
    torch.set_num_threads(1)
    return write_latent_views(lam_uri, shards_uri, out_uri, derive_seed(seed, "latent_views"))
