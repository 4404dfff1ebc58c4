r"""Measure a finished run: rollouts, modes kept, action error, probe, latency, latent views.

python -m ray_jobs.evaluate configs/evaluate/slalom.yaml --run-name demo

Writes results.parquet (long form), episodes.parquet (every outcome), latent_map.parquet, rollouts/
and latent_views/.
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine("evaluate", "lafp.evaluate.config:EvaluateConfig", __doc__)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from data_pipelines.on_ray.tasks import run_tasks
from lafp import storage
from lafp.data.randomness import derive_seed
from lafp.data.shards.sets import shards_sha256
from lafp.envs import ENVS
from lafp.envs.base import VectorEnv
from lafp.evaluate import measurements, result_rows
from lafp.evaluate.config import EvaluateConfig, MethodConfig
from lafp.evaluate.grouped import one_run
from lafp.evaluate.latency import Latency
from lafp.evaluate.outcomes import (
    Episode,
    is_measured,
    read_episode_outcomes,
    read_outcomes,
    write_episodes,
    write_outcomes,
)
from lafp.evaluate.results import DEMONSTRATOR, Result, Subject, write_results
from lafp.evaluate.rollouts import RolloutResult
from lafp.evaluate.subjects import (
    demonstrator_subject,
    lam_subject,
    method_subject,
    supervised_clips,
)
from lafp.evaluate.thorough_probe import MeasuredRow
from lafp.evaluate.training_data import why_no_probe
from lafp.finished.load import LAM_HEAD
from lafp.finished.saved_model import read_card
from lafp.report.headline import evaluation_findings
from lafp.runs.run_dir import RunDir, StageDir
from lafp.storage import strict_json
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job

T = TypeVar("T")


def inputs(cfg: EvaluateConfig, run: RunDir) -> Mapping[str, str]:
    """Returns the fingerprints of all stages and shard sets to measure, which must be complete."""
    stages = ["lam"] if cfg.lam is None else []
    seen, own = _sources(cfg, run), _seen_shards(run)
    stages += [own] if cfg.shards is None and run.stage(own).uri in seen else []
    if cfg.labeled_shards is None and (cfg.methods or _has_labeled(cfg, run)):
        stages.append("shards/labeled")
    stages += _models(cfg)
    found = {name: run.stage(name).fingerprint() for name in dict.fromkeys(stages)}
    if cfg.lam is not None:
        found["lam"] = read_card(cfg.lam, "lam")["weights_sha256"]
    given = {"shards/videos": cfg.shards, "shards/labeled": cfg.labeled_shards}
    found |= {name: shards_sha256(uri) for name, uri in given.items() if uri is not None}
    elsewhere = seen.keys() - {cfg.shards, run.stage(own).uri}
    return found | {f"shards at {uri}": shards_sha256(uri) for uri in sorted(elsewhere)}


def reads(cfg: EvaluateConfig) -> list[str]:
    """Lists the stages of the run that ``inputs`` may use."""
    return ["lam", "shards/videos", "shards/labeled", *_models(cfg)]


def _models(cfg: EvaluateConfig) -> list[str]:
    policies = [f"policy/{method.policy}" for method in cfg.methods]
    decoders = (m.action_decoder for m in cfg.methods if m.action_decoder not in (None, LAM_HEAD))
    return policies + [f"decoder/{name}" for name in decoders]


def plan(cfg: EvaluateConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: the measurements that would be done."""
    inputs(cfg, run)
    lines = [f"latent views of {_lam(cfg, run)}"]
    if cfg.env is not None:
        labels = ", ".join(_subjects(cfg, run, lam_subject(_lam(cfg, run), cfg.study, cfg.variant)))
        lines.append(f"{cfg.num_episodes} episodes of {cfg.env.name} for each of: {labels}")
    return lines


def run_stage(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Does the missing measurements, then writes the tables."""
    _look_at_latents(cfg, run, stage)
    lam_uri = _lam(cfg, run)
    lam = lam_subject(lam_uri, cfg.study, cfg.variant)
    rows = _probe_rows(cfg, run, stage, lam)
    if cfg.env is not None:
        rows += _measure_methods(cfg, run, stage, lam)
    write_results(stage.path("results.parquet"), rows)
    outcomes = read_episode_outcomes(stage.path("episodes.parquet")) if cfg.env else {}
    views = strict_json.read(dict[str, Any], stage.path("latent_views", "latent_views.json"))
    return {"findings": evaluation_findings(one_run(run.uri, rows, outcomes), views)}


def _probe_rows(cfg: EvaluateConfig, run: RunDir, stage: StageDir, lam: Subject) -> list[Result]:
    """Probes the LAM on the labeled clips; without any, returns what its training measured."""
    lam_uri = _lam(cfg, run)
    if not _has_labeled(cfg, run):
        return result_rows.probe_rows(lam, read_card(lam_uri, "lam")["metrics"])
    shards = _labeled_shards(cfg, run)
    supervised = supervised_clips(lam_uri, shards)
    if why_no_probe(shards, supervised):
        return []
    call = (lam_uri, shards, supervised, cfg.seed)

    def measure() -> list[MeasuredRow]:
        ((_, rows),) = run_tasks(
            measurements.measure_probe, [call], sizes=[1], label="probe", unit="LAMs"
        )
        return rows

    rows = stage.once("probe.json", list[MeasuredRow], measure)
    return result_rows.thorough_probe_rows(lam, rows)


def _has_labeled(cfg: EvaluateConfig, run: RunDir) -> bool:
    own = run.stage("shards/labeled").path("summary.json")
    return cfg.labeled_shards is not None or storage.is_file(own)


def _measure_methods(
    cfg: EvaluateConfig, run: RunDir, stage: StageDir, lam: Subject
) -> list[Result]:
    env, subjects = _env(cfg), _subjects(cfg, run, lam)
    _roll_out(cfg, run, stage, subjects, env.fps)
    episodes = {label: read_outcomes(stage.uri, label) for label in subjects}
    write_episodes(stage.path("episodes.parquet"), _flat(episodes))
    rows = []
    for label, subject in subjects.items():
        rows += result_rows.rollout_rows(
            subject, episodes[label], episodes[DEMONSTRATOR], env.mode_sizes
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


def _env(cfg: EvaluateConfig) -> VectorEnv:
    assert cfg.env is not None
    return ENVS.build(cfg.env)


def _subjects(cfg: EvaluateConfig, run: RunDir, lam: Subject) -> dict[str, Subject]:
    """Returns the demonstrators and every method, by label."""
    env = _env(cfg)
    subjects = {DEMONSTRATOR: demonstrator_subject(env, cfg.study, cfg.variant)}
    for method in cfg.methods:
        subjects[method.label] = method_subject(run.uri, method, lam, env)
    return subjects


# ---------------------------------------------------------------------------------------------
# Rollouts


def _roll_out(
    cfg: EvaluateConfig, run: RunDir, stage: StageDir, subjects: Mapping[str, Subject], fps: float
) -> None:
    """Runs the episodes of every label that has none yet."""
    methods: dict[str, MethodConfig | None] = {DEMONSTRATOR: None}
    methods |= {method.label: method for method in cfg.methods}
    missing = [label for label in subjects if not is_measured(stage.uri, label)]
    starts = range(0, cfg.num_episodes, cfg.episodes_per_task)
    seeds = np.array([derive_seed(cfg.seed, "evaluate", n) for n in range(cfg.num_episodes)])
    work = [(label, start) for label in missing for start in starts]
    calls, sizes = [], []
    for label, start in work:
        part = seeds[start : start + cfg.episodes_per_task]
        num_recorded = 0 if start else min(cfg.save_rollouts, len(part))
        # All methods get the same noise, so that noise is no difference between them.
        noise_seed = derive_seed(cfg.seed, "noise", start)
        calls.append((run.uri, cfg.env, methods[label], part, num_recorded, noise_seed))
        sizes.append(len(part))
    num_done = cfg.num_episodes * (len(subjects) - len(missing))
    results: dict[str, dict[int, RolloutResult]] = {label: {} for label in missing}
    for index, result in run_tasks(
        measurements.measure_rollouts,
        calls,
        sizes=sizes,
        label="rollouts",
        unit="episodes",
        num_done=num_done,
    ):
        label, start = work[index]
        results[label][start] = result
        if len(results[label]) == len(starts):
            parts = [results[label][start] for start in starts]
            write_outcomes(stage.uri, subjects[label], parts, fps)
            # Recorded frames are large, so those of finished methods are not kept.
            del results[label]


def _flat(episodes: Mapping[str, list[Episode]]) -> list[Episode]:
    return [episode for of_label in episodes.values() for episode in of_label]


# ---------------------------------------------------------------------------------------------
# Action error, alignment, latency, views


def _action_errors(cfg: EvaluateConfig, run: RunDir) -> dict[str, Any]:
    shards = _labeled_shards(cfg, run)
    calls = [(run.uri, method, shards, cfg.seed) for method in cfg.methods]
    return _of_each_method(cfg, measurements.measure_action_error, calls, "action error")


def _alignments(cfg: EvaluateConfig, run: RunDir) -> dict[str, Any]:
    shards, lam_uri = _labeled_shards(cfg, run), _lam(cfg, run)
    calls = [(run.uri, lam_uri, method, shards, cfg.seed) for method in cfg.methods]
    return _of_each_method(cfg, measurements.measure_alignment, calls, "alignment")


def _map_latents(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> None:
    """Writes ``latent_map.parquet`` of all policies that predict latent actions."""
    path = stage.path("latent_map.parquet")
    policies = list(dict.fromkeys(m.policy for m in cfg.methods if m.action_decoder is not None))
    if not policies or storage.is_file(path):
        return
    call = (run.uri, _lam(cfg, run), policies, _labeled_shards(cfg, run), path, cfg.seed)
    for _ in run_tasks(
        measurements.measure_latent_map, [call], sizes=[1], label="map of latents", unit="sets"
    ):
        pass


def _of_each_method(
    cfg: EvaluateConfig,
    measure: Callable[..., T],
    calls: Sequence[tuple[object, ...]],
    label: str,
) -> dict[str, T]:
    """Calls ``measure`` once per method. Returns the results by the methods' labels."""
    done = run_tasks(measure, calls, sizes=[1] * len(calls), label=label, unit="methods")
    return {cfg.methods[index].label: measured for index, measured in done}


def _labeled_shards(cfg: EvaluateConfig, run: RunDir) -> str:
    return cfg.labeled_shards or run.stage("shards/labeled").uri


def _latency_rows(
    cfg: EvaluateConfig, run: RunDir, stage: StageDir, subjects: Mapping[str, Subject]
) -> list[Result]:
    if not cfg.methods:
        return []
    timed = {method.label: (method, subjects[method.label]) for method in cfg.methods}
    timed |= _with_other_steps(cfg, subjects)
    baseline = next((label for label, (_, s) in timed.items() if s.method == "latent_bc"), None)
    call = (run.uri, cfg.env, [method for method, _ in timed.values()], baseline, cfg.latency)

    def measure() -> dict[int, dict[str, Latency]]:
        ((_, by_size),) = run_tasks(
            measurements.measure_latencies, [call], sizes=[1], label="latency", unit="runs"
        )
        return by_size

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


def _look_at_latents(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> None:
    folder = stage.path("latent_views")
    if storage.is_file(storage.join(folder, "latent_views.json")):
        return
    call = (_lam(cfg, run), _sources(cfg, run), folder, cfg.seed)
    for _ in run_tasks(
        measurements.measure_latent_views, [call], sizes=[1], label="latent views", unit="sets"
    ):
        pass


def _sources(cfg: EvaluateConfig, run: RunDir) -> dict[str, float]:
    """Maps the shard sets for latent views to their weights: see ``EvaluateConfig.shards``."""
    if cfg.shards is not None:
        return {cfg.shards: 1.0}
    own, lam = run.stage(_seen_shards(run)).uri, run.stage("lam")
    if cfg.lam is not None or not lam.is_begun():
        return {own: 1.0}
    trained = lam.config()
    data = trained.get("data") or [{"shards": trained.get("shards"), "weight": 1.0}]
    uris = [storage.absolute(item["shards"]) if item["shards"] else own for item in data]
    return {uri: item["weight"] for uri, item in zip(uris, data, strict=True)}


def _seen_shards(run: RunDir) -> str:
    """Names the run's own videos, or its labeled episodes if it has no videos."""
    has_labeled_only = run.complete("shards/labeled") and not run.complete("shards/videos")
    return "shards/labeled" if has_labeled_only else "shards/videos"


def _lam(cfg: EvaluateConfig, run: RunDir) -> str:
    return cfg.lam or run.stage("lam").uri


JOB = Job(
    name="evaluate",
    schema=EvaluateConfig,
    stage=lambda _: "evaluation",
    inputs=inputs,
    resources=lambda _: Resources(num_cpus=1),
    plan=plan,
    run=run_stage,
    tell=findings.evaluate,
    next_steps=next_steps.evaluate,
    reads=reads,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
