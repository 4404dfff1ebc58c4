"""Clone the true actions of the labeled clips from scratch: the baseline without videos or LAM.

python -m ray_jobs.train_bc configs/train_bc/slalom.yaml --run-name demo
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "train_bc",
    "lafp.train.tasks.behavior_cloning:TrainBcConfig",
    __doc__,
    accepts_changes=True,
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from functools import partial

from lafp.runs.run_dir import RunDir
from lafp.train.tasks.behavior_cloning import BehaviorCloningTask, TrainBcConfig
from ray_jobs.core import next_steps
from ray_jobs.training import findings, jobs
from ray_jobs.training.jobs import TrainInput


def resolve(cfg: TrainBcConfig, run: RunDir) -> tuple[TrainInput]:
    """Returns the labeled clips."""
    return (jobs.resolve(run, "labeled_shards", cfg.labeled_shards, ("shards/labeled",)),)


def build_task(cfg: TrainBcConfig, run: RunDir) -> partial[BehaviorCloningTask]:
    """Returns a function that builds the task, for every worker to call."""
    (labeled,) = resolve(cfg, run)
    return partial(BehaviorCloningTask, cfg, labeled.uri)


def remarks(cfg: TrainBcConfig, run: RunDir) -> dict[str, str]:
    """Says how many labels are seen."""
    labeled, *_ = resolve(cfg, run)
    return jobs.label_remark(labeled.uri, cfg, cfg.window.frame_stack)


JOB = jobs.training_job(
    name="train_bc",
    schema=TrainBcConfig,
    stage=lambda cfg: f"policy/{cfg.name}",
    resolve=resolve,
    build_task=build_task,
    reads=lambda _: ("shards/labeled",),
    tell=findings.train_actions,
    next_steps=next_steps.train_bc,
    remarks=remarks,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
