"""Train a policy over the latent actions of a finished LAM. No labels are used.

python -m ray_jobs.train_policy configs/train_policy/latent_flow.yaml --run-name lapo-0
"""

from functools import partial
from typing import Any

from lafp.run_dir import RunDir, StageDir
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from ray_jobs import train_inputs
from ray_jobs.cli import main
from ray_jobs.job import Job
from ray_jobs.train_inputs import TrainInput
from ray_jobs.trainer import demand, fit


def resolve(cfg: TrainPolicyConfig, run: RunDir) -> tuple[TrainInput, TrainInput]:
    """The videos and the LAM."""
    return (
        train_inputs.resolve(run, "shards", cfg.shards, ("shards/videos", "shards/labeled")),
        train_inputs.resolve(run, "lam", cfg.lam, ("lam",)),
    )


def build_task(cfg: TrainPolicyConfig, run: RunDir) -> partial[PolicyTask]:
    """The task, to be built on every worker."""
    shards, lam = resolve(cfg, run)
    return partial(PolicyTask, cfg, shards.uri, lam.uri)


def plan(cfg: TrainPolicyConfig, run: RunDir) -> list[str]:
    """What would be trained."""
    return train_inputs.plan(cfg.train, build_task(cfg, run)(), resolve(cfg, run))


def run_stage(cfg: TrainPolicyConfig, run: RunDir, stage: StageDir) -> dict[str, Any]:
    """Trains to the end."""
    return fit(stage, cfg.train, build_task(cfg, run))


JOB = Job(
    name="train_policy",
    schema=TrainPolicyConfig,
    stage=lambda cfg: f"policy/{cfg.policy.name}",
    inputs=lambda cfg, run: train_inputs.fingerprints(resolve(cfg, run)),
    demand=lambda cfg: demand(cfg.train),
    plan=plan,
    run=run_stage,
)

if __name__ == "__main__":
    main(JOB, __doc__)
