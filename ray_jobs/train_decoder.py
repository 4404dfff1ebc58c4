"""Train an action decoder, latent action -> true action, on the few labeled clips.

python -m ray_jobs.train_decoder configs/train_decoder/latent_flow.yaml --run-name lapo-0
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "train_decoder",
    "lafp.train.tasks.decoder:TrainDecoderConfig",
    __doc__,
    accepts_changes=True,
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from functools import partial

from lafp.finished.load import given_lam
from lafp.finished.saved_model import read_card
from lafp.runs.run_dir import RunDir
from lafp.train.tasks.decoder import DecoderTask, TrainDecoderConfig
from ray_jobs.core import next_steps
from ray_jobs.training import findings, jobs
from ray_jobs.training.jobs import TrainInput


def resolve(cfg: TrainDecoderConfig, run: RunDir) -> tuple[TrainInput, TrainInput, TrainInput]:
    """Returns the labeled clips, the policy, and the LAM on which the policy was trained."""
    labeled = jobs.resolve(run, "labeled_shards", cfg.labeled_shards, ("shards/labeled",))
    policy = jobs.resolve(run, "policy", None, (f"policy/{cfg.policy}",))
    return labeled, policy, jobs.resolve(run, "lam", given_lam(policy.uri), ("lam",))


def build_task(cfg: TrainDecoderConfig, run: RunDir) -> partial[DecoderTask]:
    """Returns a function that builds the task, for every worker to call."""
    labeled, policy, lam = resolve(cfg, run)
    return partial(DecoderTask, cfg, labeled.uri, policy.uri, lam.uri)


def remarks(cfg: TrainDecoderConfig, run: RunDir) -> dict[str, str]:
    """Says how many labels are seen."""
    labeled, policy, _ = resolve(cfg, run)
    obs = read_card(policy.uri, "policy")["specs"]["obs"]
    return jobs.label_remark(labeled.uri, cfg, obs["frame_stack"])


JOB = jobs.training_job(
    name="train_decoder",
    schema=TrainDecoderConfig,
    stage=lambda cfg: f"decoder/{cfg.name}",
    resolve=resolve,
    build_task=build_task,
    reads=lambda cfg: ("shards/labeled", "lam", f"policy/{cfg.policy}"),
    tell=findings.train_actions,
    next_steps=next_steps.train_decoder,
    remarks=remarks,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
