"""Train a policy over the latent actions of a finished LAM. No labels are used.

python -m ray_jobs.train_policy configs/train_policy/latent_flow.yaml --run-name lapo-0
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "train_policy",
    "lafp.train.tasks.policy:TrainPolicyConfig",
    __doc__,
    accepts_changes=True,
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from functools import partial

from lafp.runs.run_dir import RunDir
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from ray_jobs.core import next_steps
from ray_jobs.training import findings, jobs
from ray_jobs.training.jobs import TrainInput


def resolve(
    cfg: TrainPolicyConfig, run: RunDir
) -> tuple[TrainInput, TrainInput, TrainInput | None]:
    """Returns the videos, the LAM, and its stored latent actions if they are to be used."""
    latents = None
    if cfg.latents is not None:
        stages = own_latents(cfg)
        uri = None if stages else cfg.latents
        latents = jobs.resolve(run, "latents", uri, stages or ("latents/",))
    return (
        jobs.resolve(run, "shards", cfg.shards, ("shards/videos", "shards/labeled")),
        jobs.resolve(run, "lam", cfg.lam, ("lam",)),
        latents,
    )


def own_latents(cfg: TrainPolicyConfig) -> tuple[str, ...]:
    """Returns the stage of the run that holds the stored latent actions, if the config names one.

    A value of ``latents`` with a slash is a folder or URI elsewhere.
    """
    return (f"latents/{cfg.latents}",) if cfg.latents and "/" not in cfg.latents else ()


def build_task(cfg: TrainPolicyConfig, run: RunDir) -> partial[PolicyTask]:
    """Returns a function that builds the task, for every worker to call."""
    shards, lam, latents = resolve(cfg, run)
    return partial(PolicyTask, cfg, shards.uri, lam.uri, latents.uri if latents else None)


JOB = jobs.training_job(
    name="train_policy",
    schema=TrainPolicyConfig,
    stage=lambda cfg: f"policy/{cfg.policy.name}",
    resolve=resolve,
    build_task=build_task,
    reads=lambda cfg: ("shards/videos", "shards/labeled", "lam", *own_latents(cfg)),
    tell=findings.train_policy,
    next_steps=next_steps.train_policy,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
