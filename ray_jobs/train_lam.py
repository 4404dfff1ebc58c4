r"""Pretrain a latent action model on videos: what changed between two frames, as a latent.

python -m ray_jobs.train_lam configs/train_lam/lapo.yaml --run-name lapo-0 shards=DIR
python -m ray_jobs.train_lam configs/train_lam/lapo.yaml --run-name mine shards=DIR \
    init_from=runs/lapo-0/lam
ray job submit --working-dir . -- \
    python -m ray_jobs.train_lam configs/train_lam/laom.yaml --storage s3://bucket/runs
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "train_lam",
    "lafp.train.tasks.lam:TrainLamConfig",
    __doc__,
    accepts_changes=True,
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from functools import partial

from lafp.evaluate.probes.lam_probe import LamProbe
from lafp.evaluate.probes.training_data import data_remarks
from lafp.runs.run_dir import RunDir
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from ray_jobs.core import next_steps
from ray_jobs.training import findings, jobs
from ray_jobs.training.jobs import TrainInput


def resolve(cfg: TrainLamConfig, run: RunDir) -> tuple[TrainInput | None, ...]:
    """Returns the labeled clips and the LAM to start from (or None), then the sets of videos."""
    init_from = None
    if cfg.init_from is not None:
        init_from = jobs.given("init_from", cfg.init_from, "lam")
    labeled = jobs.resolve_optional(run, "labeled_shards", cfg.labeled_shards, ("shards/labeled",))
    given = {f"data.{n}.shards": item.shards for n, item in enumerate(cfg.data)}
    videos = (
        jobs.resolve(run, name, uri, ("shards/videos", "shards/labeled"))
        for name, uri in (given or {"shards": cfg.shards}).items()
    )
    return (labeled, init_from, *videos)


def build_task(cfg: TrainLamConfig, run: RunDir) -> partial[LamTask]:
    """Returns a function that builds the task, for every worker to call."""
    labeled, init_from, *videos = resolve(cfg, run)
    return partial(
        LamTask,
        cfg,
        tuple(found.uri for found in videos if found),
        labeled.uri if labeled else None,
        init_from.uri if init_from else None,
        make_probe=LamProbe,
    )


def remarks(cfg: TrainLamConfig, run: RunDir) -> dict[str, str]:
    """Says whether the actions can be probed, and whether the videos move enough."""
    labeled, _, *videos = resolve(cfg, run)
    supervised = cfg.supervision.clips_of(labeled.uri) if labeled else frozenset()
    shard_sets = [found.uri for found in videos if found]
    found = data_remarks(shard_sets, labeled.uri if labeled else None, supervised)
    if labeled and cfg.supervision.weight > 0:
        found |= jobs.label_remark(labeled.uri, cfg.supervision, cfg.window.frame_stack)
    return found


JOB = jobs.training_job(
    name="train_lam",
    schema=TrainLamConfig,
    stage=lambda _: "lam",
    resolve=resolve,
    build_task=build_task,
    reads=lambda _: ("shards/videos", "shards/labeled"),
    tell=findings.train_lam,
    next_steps=next_steps.train_lam,
    remarks=remarks,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
