r"""Render demonstrations in an environment: mp4 files, and labels for a few of them.

python -m ray_jobs.collect configs/collect/slalom.yaml --run-name demo
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine("collect", "data_pipelines.collect:CollectConfig", __doc__, extra="data")
if __name__ == "__main__":
    COMMAND_LINE.answer_early()


from data_pipelines.collect import CollectConfig, batches, collect
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job


def plan(cfg: CollectConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: the episodes that would be rendered."""
    return [
        f"{cfg.num_episodes} unlabeled, {cfg.num_labeled_episodes} labeled and "
        f"{cfg.num_labeled_val_episodes} held-out labeled episodes of {cfg.env.name}, "
        f"in {len(batches(cfg))} tasks, to {run.stage('demonstrations').uri}"
    ]


def run_stage(cfg: CollectConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Renders the missing episodes."""
    return collect(cfg, stage.uri)


JOB = Job(
    name="collect",
    schema=CollectConfig,
    stage=lambda _: "demonstrations",
    inputs=lambda _, run: {},
    resources=lambda _: Resources(num_cpus=1),
    plan=plan,
    run=run_stage,
    tell=findings.collect,
    next_steps=next_steps.collect,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
