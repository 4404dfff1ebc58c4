r"""Run a finished LAM over a shard set once, so that policies need not run it at every step.

python -m ray_jobs.label_latents configs/label_latents/videos.yaml --run-name lapo-0
python -m ray_jobs.train_policy configs/train_policy/latent_flow.yaml --run-name lapo-0 \
    latents=videos
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "label_latents", "data_pipelines.label_latents:LabelLatentsConfig", __doc__
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()


from data_pipelines.label_latents import LabelLatentsConfig, label_latents, shard_names
from lafp.data.held_out import check_frame_size
from lafp.data.shards.sets import open_shard_set
from lafp.lam import load_lam
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job
from ray_jobs.training import jobs
from ray_jobs.training.jobs import TrainInput


def resolve(cfg: LabelLatentsConfig, run: RunDir) -> tuple[TrainInput, TrainInput]:
    """Returns the videos and the LAM."""
    return (
        jobs.resolve(run, "shards", cfg.shards, ("shards/videos", "shards/labeled")),
        jobs.resolve(run, "lam", cfg.lam, ("lam",)),
    )


def inputs(cfg: LabelLatentsConfig, run: RunDir) -> dict[str, str]:
    """Returns the fingerprints of the clips and of the LAM's weights."""
    return jobs.fingerprints(resolve(cfg, run))


def plan(cfg: LabelLatentsConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: what would be labeled, and how much would be stored."""
    shards, lam_input = resolve(cfg, run)
    lam, spec = load_lam(lam_input.uri), open_shard_set(shards.uri)
    check_frame_size(shards.uri, lam.obs)
    num_clips, num_frames = sum(spec.num_clips.values()), sum(spec.num_frames.values())
    num_pairs = max(0, num_frames - num_clips * lam.obs.frame_stack)
    mib = num_pairs * lam.latent_action_dim * 2 / 2**20
    return [
        f"shards: {shards.uri}",
        f"lam: {lam_input.uri}",
        f"{num_clips:,} clips, about {num_pairs:,} frame pairs, in "
        f"{len(shard_names(shards.uri)):,} tasks",
        f"about {mib:,.1f} MiB as float16, twice as much where float32 is needed",
    ]


def run_stage(cfg: LabelLatentsConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Labels the shards that have no latents yet."""
    shards, lam = resolve(cfg, run)
    check_frame_size(shards.uri, load_lam(lam.uri).obs)
    return label_latents(cfg, shards.uri, lam.uri, stage.uri)


JOB = Job(
    name="label_latents",
    schema=LabelLatentsConfig,
    stage=lambda cfg: f"latents/{cfg.name}",
    inputs=inputs,
    resources=lambda cfg: Resources(num_cpus=1, num_gpus=1 if cfg.use_gpu else 0),
    plan=plan,
    run=run_stage,
    tell=findings.label_latents,
    next_steps=next_steps.label_latents,
    reads=lambda _: ("shards/videos", "shards/labeled", "lam"),
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
