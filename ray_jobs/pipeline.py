r"""Run all stages in order, from videos to policy and report. Complete stages are skipped.

python -m ray_jobs.pipeline configs/pipeline/slalom.yaml
python -m ray_jobs.pipeline configs/pipeline/videos.yaml preprocess.source=DIR --run-name mine
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "pipeline",
    "ray_jobs.studies.pipeline_config:PipelineConfig",
    __doc__,
    accepts_changes=True,
    can_be_alone=True,
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

import functools
import operator
from collections import Counter
from collections.abc import Iterator

import torch

from lafp.config import Choice, ConfigError
from lafp.objectives import OBJECTIVES
from lafp.policies import POLICIES
from lafp.runs.run_dir import RunDir, StageDir
from lafp.types import ObsSpec
from ray_jobs import (
    collect,
    evaluate,
    label_latents,
    preprocess,
    report,
    train_bc,
    train_decoder,
    train_lam,
    train_policy,
)
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job, Part, can_all_be_alone, execute, state_of
from ray_jobs.evaluation import measured
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.stages_read import check_stages_read

TRAINING_JOBS = (train_lam.JOB, train_policy.JOB, train_decoder.JOB, train_bc.JOB)


def steps(cfg: PipelineConfig) -> Iterator[tuple[Job, object]]:
    """Yields the jobs of the pipeline with their configs, in order."""
    if cfg.collect:
        yield collect.JOB, cfg.collect
    if cfg.preprocess:
        yield preprocess.JOB, cfg.preprocess
    if cfg.preprocess_labeled:
        yield preprocess.JOB, cfg.preprocess_labeled
    yield train_lam.JOB, cfg.train_lam
    if cfg.label_latents:
        yield label_latents.JOB, cfg.label_latents
    for policy in cfg.train_policy:
        yield train_policy.JOB, policy
    for action_decoder in cfg.train_decoder:
        yield train_decoder.JOB, action_decoder
    for baseline in cfg.train_bc:
        yield train_bc.JOB, baseline
    yield evaluate.JOB, cfg.evaluate
    yield report.JOB, cfg.report


def parts(cfg: PipelineConfig, run: RunDir) -> list[Part]:
    """Returns the stages."""
    return [Part(job, section, run) for job, section in steps(cfg)]


def check(cfg: PipelineConfig, run: RunDir) -> None:
    """Finds errors now that would otherwise stop a stage hours later, when its turn comes.

    Raises:
        ConfigError: See ``check_config``; or a stage does not fit inputs that exist already.
    """
    check_config(cfg, run)
    for job, section in steps(cfg):
        if job in TRAINING_JOBS:
            check_if_its_turn(job, section, run)


def check_config(cfg: PipelineConfig, run: RunDir) -> None:
    """Finds config errors that can be checked before any stage has run.

    Raises:
        ConfigError: Two sections write the same stage, nothing makes a stage that another one
            reads, a source is not there, or the simulator of the rollouts, or a model cannot be
            built.
    """
    times = Counter(job.stage(section) for job, section in steps(cfg))
    if twice := [stage for stage, num in times.items() if num > 1]:
        raise ConfigError(
            f"Two sections of the pipeline write {twice[0]}: set another `name` in one of them."
        )
    for key in ("preprocess", "preprocess_labeled"):
        section = getattr(cfg, key)
        if section and (section.source or not cfg.collect):
            try:
                preprocess.check(section, run)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None
    check_stages_read(cfg, set(times), run)
    check_models(cfg)
    if cfg.evaluate.env is not None and run.complete("evaluation") is None:
        try:
            _check_environment(cfg.evaluate.env, cfg.evaluate.num_episodes)
        except ConfigError as error:
            raise ConfigError(f"evaluate: {error}") from None


# Cached, because most runs of a study have the same environment.
@functools.cache
def _check_environment(cfg: Choice, num_episodes: int) -> None:
    measured.build_environment(cfg, num_episodes)


def check_models(cfg: PipelineConfig) -> None:
    """Finds models that cannot be built for the frames that `preprocess` will make.

    Raises:
        ConfigError: A LAM or a policy cannot be built.
    """
    source = cfg.preprocess or cfg.preprocess_labeled
    if source is None or cfg.train_lam.shards is not None or cfg.train_lam.data:
        return
    obs = ObsSpec(
        height_px=source.resize.height_px,
        width_px=source.resize.width_px,
        frame_stack=cfg.train_lam.window.frame_stack,
        fps=source.clip.fps or 10.0,  # models do not depend on it
    )
    latent_action_dim = _check_model("train_lam.objective", cfg.train_lam.objective, obs)
    for number, policy in enumerate(cfg.train_policy):
        if policy.shards is None and policy.lam is None:
            where = f"train_policy.{number}.policy"
            _check_model(where, policy.policy, obs, latent_action_dim)


# Cached, because most runs of a study have the same models.
@functools.cache
def _check_model(where: str, cfg: Choice, obs: ObsSpec, *sizes: int) -> int:
    """Builds a model's shapes. Returns the size of its latent action."""
    registry = POLICIES if sizes else OBJECTIVES
    try:
        with torch.device("meta"):  # tensors without data, so a large model needs no memory
            return registry.build(cfg, obs, *sizes).latent_action_dim
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_if_its_turn(job: Job, section: object, run: RunDir) -> None:
    """Checks a stage against its inputs, if these exist already and the stage is not complete."""
    stage = run.stage(job.stage(section))
    try:
        inputs = dict(job.inputs(section, run))
    except ConfigError:  # the stages before it are not complete
        return
    if state_of(job, section, run, inputs) != "complete":
        try:
            job.check(section, run)
        except ConfigError as error:
            raise ConfigError(f"{stage.name}: {error}") from None


def plan(cfg: PipelineConfig, run: RunDir) -> list[str]:
    """Returns a paragraph per stage. Stages after an unfinished one cannot be planned in detail."""
    lines, is_waiting = [], False
    for job, section in steps(cfg):
        stage = run.stage(job.stage(section))
        try:
            state = state_of(job, section, run)
            details = job.plan(section, run)
        except ConfigError:
            if not is_waiting:
                raise
            state, details = "new", ["waits for the stages before it"]
        is_waiting = is_waiting or state != "complete"
        lines += [f"{stage.name}: {state}", *(f"  {line}" for line in details)]
    return lines


def run_steps(cfg: PipelineConfig, run: RunDir, _: StageDir) -> dict[str, object]:
    """Runs every stage that is not complete."""
    jobs = list(steps(cfg))
    summary: dict[str, object] = {}
    for number, (job, section) in enumerate(jobs, start=1):
        print(f"\n=== {number} of {len(jobs)}: {job.name} ===", flush=True)
        summary[job.stage(section)] = execute(job, section, run)
    return summary


JOB = Job(
    name="pipeline",
    schema=PipelineConfig,
    check=check,
    resources=lambda cfg: functools.reduce(
        operator.or_, (job.resources(section) for job, section in steps(cfg)), Resources()
    ),
    can_be_alone=lambda cfg, run: can_all_be_alone(parts(cfg, run)),
    plan=plan,
    run=run_steps,
    tell=findings.pipeline,
    next_steps=next_steps.pipeline,
    parts=parts,
    is_remade=True,  # each stage itself refuses a change of its part of the config
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
