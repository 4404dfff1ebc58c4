r"""Measure a finished run: rollouts, modes kept, action error, probe, latency, latent views.

python -m ray_jobs.evaluate configs/evaluate/slalom.yaml --run-name demo

Writes results.parquet (long form), episodes.parquet (every outcome), latent_map.parquet, rollouts/
and latent_views/.
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "evaluate", "lafp.evaluate.config:EvaluateConfig", __doc__, can_be_alone=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from collections.abc import Mapping

from lafp.data.shards.sets import shards_sha256
from lafp.evaluate.config import EvaluateConfig
from lafp.evaluate.latents.latent_views import read_latent_views
from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.outcomes import read_episode_outcomes
from lafp.evaluate.rows.results import write_results
from lafp.finished.saved_model import read_card
from lafp.report.headline import evaluation_findings
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job
from ray_jobs.evaluation import measured, on_tasks


def inputs(cfg: EvaluateConfig, run: RunDir) -> Mapping[str, str]:
    """Returns the fingerprints of all stages and shard sets to measure, which must be complete."""
    stages = ["lam"] if cfg.lam is None else []
    viewed, own = measured.viewed_shards(cfg, run), measured.own_shards(run)
    stages += [own] if cfg.shards is None and run.stage(own).uri in viewed else []
    if cfg.labeled_shards is None and (cfg.methods or measured.has_labeled_shards(cfg, run)):
        stages.append("shards/labeled")
    stages += measured.stages_of_methods(cfg)
    found = {name: run.stage(name).fingerprint() for name in dict.fromkeys(stages)}
    if cfg.lam is not None:
        found["lam"] = read_card(cfg.lam, "lam")["weights_sha256"]
    given = {"shards/videos": cfg.shards, "shards/labeled": cfg.labeled_shards}
    found |= {name: shards_sha256(uri) for name, uri in given.items() if uri is not None}
    elsewhere = viewed.keys() - {cfg.shards, run.stage(own).uri}
    return found | {f"shards at {uri}": shards_sha256(uri) for uri in sorted(elsewhere)}


def reads(cfg: EvaluateConfig) -> list[str]:
    """Lists the stages of the run that ``inputs`` may use."""
    return ["lam", "shards/videos", "shards/labeled", *measured.stages_of_methods(cfg)]


def check(cfg: EvaluateConfig, run: RunDir) -> None:
    """Checks the inputs of the rollouts before any measurement starts.

    Raises:
        ConfigError: An input, a model or the simulator is missing, or they do not fit together.
    """
    if cfg.env is not None:
        inputs(cfg, run)  # it names a stage that is missing
        measured.subjects(cfg, run, measured.environment(cfg))


def plan(cfg: EvaluateConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: the measurements that would be done."""
    inputs(cfg, run)
    lines = [f"latent views of {measured.lam_uri(cfg, run)}"]
    if cfg.env is not None:
        labels = ", ".join(measured.subjects(cfg, run, measured.environment(cfg)))
        lines.append(f"{cfg.num_episodes} episodes of {cfg.env.name} for each of: {labels}")
    return lines


def run_stage(cfg: EvaluateConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Does the missing measurements, then writes the tables."""
    on_tasks.view_latents(cfg, run, stage)
    rows = on_tasks.probe_rows(cfg, run, stage)
    if cfg.env is not None:
        rows += on_tasks.method_rows(cfg, run, stage)
    write_results(stage.path("results.parquet"), rows)
    outcomes = read_episode_outcomes(stage.path("episodes.parquet")) if cfg.env else {}
    views = read_latent_views(stage.path("latent_views"))
    return {"findings": evaluation_findings(one_run(run.uri, rows, outcomes), views)}


JOB = Job(
    name="evaluate",
    schema=EvaluateConfig,
    stage=lambda _: "evaluation",
    inputs=inputs,
    check=check,
    resources=lambda _: Resources(num_cpus=1),
    can_be_alone=lambda cfg, _: cfg.env is None,  # rollouts want many cores
    plan=plan,
    run=run_stage,
    tell=findings.evaluate,
    next_steps=next_steps.evaluate,
    reads=reads,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
