r"""Pretrain a latent action model on videos: what changed between two frames, as a latent.

python -m ray_jobs.train_lam configs/train_lam/lapo.yaml --run-name lapo-0 shards=DIR
ray job submit --working-dir . -- \
    python -m ray_jobs.train_lam configs/train_lam/laom.yaml --storage s3://bucket/runs
"""

from functools import partial

from lafp.run_dir import RunDir
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from ray_jobs import train_inputs
from ray_jobs.cli import main
from ray_jobs.train_inputs import TrainInput


def resolve(cfg: TrainLamConfig, run: RunDir) -> tuple[TrainInput, TrainInput | None]:
    """The videos, and the labeled clips if there are any."""
    return (
        train_inputs.resolve(run, "shards", cfg.shards, ("shards/videos", "shards/labeled")),
        train_inputs.resolve_optional(
            run, "labeled_shards", cfg.labeled_shards, ("shards/labeled",)
        ),
    )


def build_task(cfg: TrainLamConfig, run: RunDir) -> partial[LamTask]:
    """The task, to be built on every worker."""
    shards, labeled = resolve(cfg, run)
    return partial(LamTask, cfg, shards.uri, labeled.uri if labeled else None)


JOB = train_inputs.training_job(
    name="train_lam",
    schema=TrainLamConfig,
    stage=lambda _: "lam",
    resolve=resolve,
    build_task=build_task,
)

if __name__ == "__main__":
    main(JOB, __doc__)
