"""The measurements of an evaluation.

Each is one call that needs only URIs and configs, so that it can run in a process of its own.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from lafp.agent import Agent
from lafp.config import Choice
from lafp.data.held_out import HeldOutClips
from lafp.data.labels import action_spec
from lafp.data.randomness import derive_seed
from lafp.envs import ENVS
from lafp.envs.base import conditions_of
from lafp.evaluate.acting.alignment import alignment, decoding_errors
from lafp.evaluate.acting.latency import Latency, measure_latency
from lafp.evaluate.acting.latent_map import IDM, MAX_POINTS, LatentPoint, Latents, latent_points
from lafp.evaluate.acting.open_loop import open_loop_errors
from lafp.evaluate.acting.random_policy import RandomPolicy
from lafp.evaluate.acting.rollouts import (
    Expert,
    RolloutResult,
    observation,
    rollout,
    seen_at,
)
from lafp.evaluate.config import LatencyConfig, MethodConfig
from lafp.evaluate.latents.latent_views import LatentViews, write_latent_views
from lafp.evaluate.probes.thorough_probe import MeasuredRow, probe_thoroughly
from lafp.evaluate.rows.results import DEMONSTRATOR
from lafp.finished.load import LAM_HEAD, lam_behind, load_policy, policy_behind
from lafp.lam import Lam, load_lam
from lafp.models.action_decoder import ActionDecoder
from lafp.policies.base import Policy
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import write_rows
from lafp.train.transitions import (
    Transitions,
    anchor_range,
    anchored_latents,
    deployed_latents,
    transitions_of_clip,
)

Reference = Literal["demonstrator", "random"]
MAX_VAL_CLIPS = 256
MAX_TRANSITIONS = 2048
"""Transitions for the alignment, spread evenly over the clips: its work grows with their square."""


def load_agent(run_uri: str, method: MethodConfig) -> Agent:
    """Loads the agent of one method.

    Raises:
        ConfigError: A model is missing, or they do not belong together.
    """
    run = RunDir(run_uri)
    is_head = method.action_decoder == LAM_HEAD
    return Agent.load(
        run_uri,
        policy=method.policy,
        action_decoder=method.action_decoder,
        lam=lam_behind(run, run.stage(f"policy/{method.policy}").uri) if is_head else None,
        sample_actions=method.sample_actions,
        **method.overrides,
    )


def measure_rollouts(
    run_uri: str,
    env_cfg: Choice,
    method: MethodConfig | Reference,
    seeds: np.ndarray,
    num_recorded: int,
    seed: int,
) -> RolloutResult:
    """Runs the episodes of one method, of the demonstrator, or of random actions."""
    # A task has one core. More threads would take those of other tasks.
    torch.set_num_threads(1)
    if not isinstance(method, MethodConfig):
        if num_recorded == 0:
            return _remembered_reference(method, env_cfg, tuple(seeds.tolist()), seed)
        return _roll_out_reference(method, env_cfg, seeds, num_recorded, seed)
    env = ENVS.build(env_cfg)
    return rollout(env, load_agent(run_uri, method), seeds, num_recorded=num_recorded, seed=seed)


def _roll_out_reference(
    name: Reference, env_cfg: Choice, seeds: np.ndarray, num_recorded: int, seed: int
) -> RolloutResult:
    env = ENVS.build(env_cfg)
    actor = Expert(env) if name == DEMONSTRATOR else RandomPolicy(env.action_spec, seeds)
    return rollout(env, actor, seeds, num_recorded=num_recorded, seed=seed)


@lru_cache(maxsize=32)
def _remembered_reference(
    name: Reference, env_cfg: Choice, seeds: tuple[int, ...], seed: int
) -> RolloutResult:
    """Runs a reference's episodes, or returns those that this process has run before.

    They do not depend on the methods that are evaluated, and the runs of a study evaluate theirs on
    the same episodes, one after the other in the same processes. Kept are the outcomes of 32 parts
    of an evaluation, some MB. Episodes whose frames are recorded are large, so they are run anew.
    """
    return _roll_out_reference(name, env_cfg, np.array(seeds), 0, seed)


def measure_action_error(
    run_uri: str, method: MethodConfig, labeled_shards: str, seed: int
) -> dict[str, float]:
    """Measures the errors on held-out labeled clips; empty if the set has none."""
    torch.set_num_threads(1)
    batches = list(HeldOutClips(labeled_shards, MAX_VAL_CLIPS).batches(torch.device("cpu")))
    if not batches:
        return {}
    agent = load_agent(run_uri, method)
    return open_loop_errors(agent, batches, action_spec(labeled_shards), seed)


@torch.no_grad()
def measure_alignment(
    run_uri: str, lam_uri: str, method: MethodConfig, labeled_shards: str, seed: int
) -> dict[str, float]:
    """Measures the latents behind a method's decoder; empty without one or without held-out clips.

    The policy is sampled as the decoder's training did, and with the method's solver steps as it
    is deployed: from fresh noise, whatever noise the method keeps within an episode.

    Returns:
        What ``alignment`` and ``decoding_errors`` measure, and ``num_transitions``.
    """
    torch.set_num_threads(1)
    agent = load_agent(run_uri, method)
    action_decoder = agent.action_decoder
    if not isinstance(action_decoder, ActionDecoder):
        return {}
    assert method.action_decoder is not None
    run = RunDir(run_uri)
    policy = load_policy(policy_behind(run, method.action_decoder, method.policy))
    seen = _held_out(labeled_shards, load_lam(lam_uri), policy, MAX_TRANSITIONS)
    if seen is None:
        return {}
    config = run.stage(f"decoder/{method.action_decoder}").config()
    torch.manual_seed(derive_seed(seed, "alignment"))
    trained_on_NZ = anchored_latents(
        policy, seen, anchor_range(config["anchor_time"]), config["anchor_steps"]
    )
    deployed_NZ = deployed_latents(agent.policy, seen)
    return {
        **alignment(trained_on_NZ, seen.idm_latent, deployed_NZ),
        **decoding_errors(
            lambda latents: action_decoder(latents, seen.embedding),
            seen.idm_latent,
            deployed_NZ,
            seen.true_action,
            action_decoder.action,
        ),
        "num_transitions": float(len(seen)),
    }


@torch.no_grad()
def measure_latent_map(
    run_uri: str, lam_uri: str, policies: Sequence[str], labeled_shards: str, uri: str, seed: int
) -> None:
    """Writes the LAM's latents and those of each policy, from fresh noise, to a table at ``uri``.

    The table is empty without held-out clips. Policies of true actions have no latents.
    """
    torch.set_num_threads(1)
    lam, spec = load_lam(lam_uri), action_spec(labeled_shards)
    sources: dict[str, Latents] = {}
    for name in policies:
        policy = load_policy(RunDir(run_uri).stage(f"policy/{name}").uri)
        seen = _held_out(labeled_shards, lam, policy, MAX_POINTS)
        if seen is None:
            continue
        action = seen.true_action if spec.is_discrete else spec.normalize(seen.true_action)
        torch.manual_seed(derive_seed(seed, "latent_map"))
        deployed = deployed_latents(policy, seen)
        sources.setdefault(IDM, Latents(latent_action=seen.idm_latent, true_action=action))
        sources[name] = Latents(latent_action=deployed, true_action=action)
    points = latent_points(sources, derive_seed(seed, "umap")) if sources else []
    write_rows(uri, LatentPoint, points)


def _held_out(labeled_shards: str, lam: Lam, policy: Policy, limit: int) -> Transitions | None:
    """Transitions of the held-out clips, spread evenly over them; None without such clips."""
    parts = [
        transitions_of_clip(batch, b, lam, policy)
        for batch in HeldOutClips(labeled_shards, MAX_VAL_CLIPS).batches(torch.device("cpu"))
        for b in range(len(batch.num_frames))
    ]
    if not parts:
        return None
    seen = Transitions.cat(parts)
    return seen[torch.linspace(0, len(seen) - 1, min(len(seen), limit)).long()]


def measure_probe(
    lam_uri: str, labeled_shards: str, supervised: frozenset[str], seed: int, device: str
) -> list[MeasuredRow]:
    """Measures what probes read of the true actions from z; see ``probe_thoroughly``."""
    torch.set_num_threads(1)
    lam = load_lam(lam_uri, device)
    return probe_thoroughly(lam, labeled_shards, supervised, seed)


def measure_latencies(
    run_uri: str,
    env_cfg: Choice,
    methods: Sequence[MethodConfig],
    baseline: str | None,
    cfg: LatencyConfig,
) -> dict[int, dict[str, Latency]]:
    """Measures the time of one action: batch size -> label -> latency."""
    torch.set_num_threads(1)
    env = ENVS.build(env_cfg)
    agents = {method.label: load_agent(run_uri, method) for method in methods}
    found = {}
    for size in cfg.batch_sizes:
        seeds = np.arange(size)
        seen = seen_at(env, env.reset(seeds), conditions_of(env, seeds))
        found[size] = _latencies(agents, seen, baseline, cfg.num_rounds)
    return found


def _latencies(
    agents: Mapping[str, Agent],
    seen: Mapping[str, np.ndarray],
    baseline: str | None,
    num_rounds: int,
) -> dict[str, Latency]:
    for agent in agents.values():
        agent.reset(len(seen["image"]))
    read = {label: observation(agent, seen) for label, agent in agents.items()}
    calls = {label: lambda label=label: agents[label].act(read[label]) for label in agents}
    return measure_latency(calls, num_rounds=num_rounds, baseline=baseline)


def measure_latent_views(
    lam_uri: str, sources: Mapping[str, float], out_uri: str, seed: int
) -> LatentViews:
    """Makes pictures and statistics of the latent actions; see ``write_latent_views``."""
    torch.set_num_threads(1)
    return write_latent_views(lam_uri, sources, out_uri, derive_seed(seed, "latent_views"))
