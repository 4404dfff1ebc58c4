"""Does the measurements of an evaluation, on Ray as tasks. What is stored is not measured again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from data_pipelines.on_ray.joined import is_on_ray
from data_pipelines.on_ray.tasks import run_each, run_tasks
from lafp import storage
from lafp.data.randomness import derive_seed
from lafp.envs.base import VectorEnv, episode_seeds
from lafp.evaluate import measurements
from lafp.evaluate.acting.latency import Latency
from lafp.evaluate.acting.rollouts import RolloutResult
from lafp.evaluate.config import EvaluateConfig, MethodConfig
from lafp.evaluate.latents.latent_views import has_latent_views
from lafp.evaluate.probes.thorough_probe import MeasuredRow
from lafp.evaluate.probes.training_data import why_no_probe
from lafp.evaluate.rows import result_rows
from lafp.evaluate.rows.outcomes import (
    is_measured,
    read_outcomes,
    write_episodes,
    write_outcomes,
)
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM, Result, Subject
from lafp.evaluate.rows.subjects import supervised_clips
from lafp.finished.saved_model import read_card
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.evaluation import measured

T = TypeVar("T")


def view_latents(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> None:
    """Writes the folder ``latent_views``."""
    folder = stage.path("latent_views")
    if not has_latent_views(folder):
        call = (measured.lam_uri(cfg, run), measured.viewed_shards(cfg, run), folder, cfg.seed)
        run_each(measurements.measure_latent_views, [call], title="latent views", unit="sets")


def probe_rows(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> list[Result]:
    """Probes the LAM on the labeled clips; without any, returns what its training measured."""
    lam_uri = measured.lam_uri(cfg, run)
    lam = measured.latent_action_model(cfg, run)
    if not measured.has_labeled_shards(cfg, run):
        return result_rows.probe_rows(lam, read_card(lam_uri, "lam")["metrics"])
    shards = measured.labeled_shards(cfg, run)
    supervised = supervised_clips(lam_uri, shards)
    if why_no_probe(shards, supervised):
        return []

    def measure() -> list[MeasuredRow]:
        # On Ray, other stages may hold the GPUs. Without Ray nothing else runs meanwhile.
        is_gpu_free = not is_on_ray() and torch.cuda.is_available()
        call = (lam_uri, shards, supervised, cfg.seed, "cuda" if is_gpu_free else "cpu")
        (found,) = run_each(measurements.measure_probe, [call], title="probe", unit="LAMs")
        if is_gpu_free:  # the next stage of a study trains in a process of its own
            torch.cuda.empty_cache()
        return found

    rows = stage.once("probe.json", list[MeasuredRow], measure)
    return result_rows.thorough_probe_rows(lam, rows)


def method_rows(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> list[Result]:
    """Measures the references and every method: rollouts, latents, action error, latency."""
    env = measured.environment(cfg)
    subjects = measured.subjects(cfg, run, env)
    _roll_out(cfg, run, stage, subjects, env)
    episodes = {label: read_outcomes(stage.uri, label) for label in subjects}
    write_episodes(
        stage.path("episodes.parquet"), [e for found in episodes.values() for e in found]
    )
    rows = []
    for label, subject in subjects.items():
        rows += result_rows.rollout_rows(
            subject,
            episodes[label],
            episodes[DEMONSTRATOR],
            episodes.get(RANDOM, []),
            env.mode_sizes,
        )
    kind = dict[str, dict[str, Any]]
    on_clips = [
        stage.once("action_errors.json", kind, lambda: _action_errors(cfg, run)),
        stage.once("alignment.json", kind, lambda: _alignments(cfg, run)),
    ]
    for label, errors in (item for of_labels in on_clips for item in of_labels.items()):
        rows += result_rows.action_error_rows(subjects[label], errors) if errors else []
    _map_latents(cfg, run, stage)
    return rows + _latency_rows(cfg, run, stage, subjects)


def _roll_out(
    cfg: EvaluateConfig,
    run: RunDir,
    stage: StageDir,
    subjects: Mapping[str, Subject],
    env: VectorEnv,
) -> None:
    """Runs the episodes of every label that has none yet."""
    methods: dict[str, MethodConfig | measurements.Reference]
    methods = {DEMONSTRATOR: DEMONSTRATOR, RANDOM: RANDOM}
    methods |= {method.label: method for method in cfg.methods}
    missing = [label for label in subjects if not is_measured(stage.uri, label)]
    starts = range(0, cfg.num_episodes, cfg.episodes_per_task)
    seeds = episode_seeds(env, cfg.seed, "evaluate", 0, cfg.num_episodes)
    work = [(label, start) for label in missing for start in starts]
    calls, sizes = [], []
    for label, start in work:
        part = seeds[start : start + cfg.episodes_per_task]
        num_recorded = 0 if start else min(cfg.save_rollouts, len(part))
        # All methods get the same noise, so that luck with it favours none.
        noise_seed = derive_seed(cfg.seed, "noise", start)
        calls.append((run.uri, cfg.env, methods[label], part, num_recorded, noise_seed))
        sizes.append(len(part))
    num_done = cfg.num_episodes * (len(subjects) - len(missing))
    results: dict[str, dict[int, RolloutResult]] = {label: {} for label in missing}
    for index, result in run_tasks(
        measurements.measure_rollouts,
        calls,
        sizes=sizes,
        title="rollouts",
        unit="episodes",
        num_done=num_done,
    ):
        label, start = work[index]
        results[label][start] = result
        if len(results[label]) == len(starts):
            parts = [results[label][start] for start in starts]
            write_outcomes(stage.uri, subjects[label], parts, env.fps)
            # Recorded frames are large, so those of finished methods are not kept.
            del results[label]


def _action_errors(cfg: EvaluateConfig, run: RunDir) -> dict[str, dict[str, float]]:
    shards = measured.labeled_shards(cfg, run)
    calls = [(run.uri, method, shards, cfg.seed) for method in cfg.methods]
    return _by_label(cfg, measurements.measure_action_error, calls, "action error")


def _alignments(cfg: EvaluateConfig, run: RunDir) -> dict[str, dict[str, float]]:
    shards, lam_uri = measured.labeled_shards(cfg, run), measured.lam_uri(cfg, run)
    calls = [(run.uri, lam_uri, method, shards, cfg.seed) for method in cfg.methods]
    return _by_label(cfg, measurements.measure_alignment, calls, "alignment")


def _map_latents(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> None:
    """Writes ``latent_map.parquet`` of all policies that predict latent actions."""
    path = stage.path("latent_map.parquet")
    policies = list(dict.fromkeys(m.policy for m in cfg.methods if m.action_decoder is not None))
    if policies and not storage.is_file(path):
        shards, lam_uri = measured.labeled_shards(cfg, run), measured.lam_uri(cfg, run)
        call = (run.uri, lam_uri, policies, shards, path, cfg.seed)
        run_each(measurements.measure_latent_map, [call], title="map of latents", unit="sets")


def _latency_rows(
    cfg: EvaluateConfig, run: RunDir, stage: StageDir, subjects: Mapping[str, Subject]
) -> list[Result]:
    if not cfg.methods:
        return []
    timed = {method.label: (method, subjects[method.label]) for method in cfg.methods}
    timed |= _with_other_steps(cfg, subjects)
    baseline = next((label for label, (_, s) in timed.items() if s.method == "latent_bc"), None)

    def measure() -> dict[int, dict[str, Latency]]:
        call = (run.uri, cfg.env, [method for method, _ in timed.values()], baseline, cfg.latency)
        (found,) = run_each(measurements.measure_latencies, [call], title="latency", unit="runs")
        return found

    rows = []
    kind = dict[int, dict[str, Latency]]
    for size, of_size in stage.once("latency.json", kind, measure).items():
        for label, latency in of_size.items():
            rows += result_rows.latency_rows(timed[label][1], size, latency)
    return rows


def _with_other_steps(
    cfg: EvaluateConfig, subjects: Mapping[str, Subject]
) -> dict[str, tuple[MethodConfig, Subject]]:
    """Returns variants of the first flow method, with each other number of solver steps."""
    flow = next((m for m in cfg.methods if subjects[m.label].solver_steps is not None), None)
    if flow is None:
        return {}
    variants = {}
    for num in cfg.latency.solver_steps:
        label = f"{flow.label}_{num}_steps"
        if num != subjects[flow.label].solver_steps:
            variants[label] = (
                replace(flow, label=label, num_solver_steps=num),
                replace(subjects[flow.label], label=label, solver_steps=num),
            )
    return variants


def _by_label(
    cfg: EvaluateConfig,
    measure: Callable[..., T],
    calls: Sequence[tuple[object, ...]],
    title: str,
) -> dict[str, T]:
    """Calls ``measure`` once per method. Returns the results by the methods' labels."""
    results = run_each(measure, calls, title=title, unit="methods")
    return {method.label: result for method, result in zip(cfg.methods, results, strict=True)}
