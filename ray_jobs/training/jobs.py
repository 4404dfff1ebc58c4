"""Builds training jobs, which resolve inputs, plan and run alike for every kind of task."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import torch

from lafp import storage
from lafp.config import ConfigError
from lafp.data.labels import count_labels
from lafp.data.order.micro_batches import MicroBatchLayout
from lafp.runs.content import content_hash
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import label_words
from lafp.train.checkpoints import Checkpoints
from lafp.train.compiled import check_compilable
from lafp.train.config import TrainConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.task import Task
from ray_jobs.core.job import Job
from ray_jobs.training.resources import can_be_alone, resources

_KINDS = {
    "shards": ("shard_set.json", "shard set", "preprocess"),
    "lam": ("model.json", "finished LAM", "train_lam"),
    "latents": ("latent_set.json", "set of stored latent actions", "label_latents"),
}
"""Folder of a stage -> the file that describes its content, its name in words, and its job."""
MODELS = {"lam", "policy", "init_from"}
"""Names of inputs that are finished models."""


class TrainingConfig(Protocol):
    """The config of any job that trains."""

    @property
    def train(self) -> TrainConfig:
        """The training config."""


C = TypeVar("C", bound=TrainingConfig)


@dataclass(frozen=True)
class TrainInput:
    """An input of training: a finished stage of this run, or a folder elsewhere."""

    name: str
    uri: str
    fingerprint: str
    """Hash of the content, which does not depend on the place."""


def training_job(
    *,
    name: str,
    schema: type[C],
    stage: Callable[[C], str],
    resolve: Callable[[C, RunDir], Iterable[TrainInput | None]],
    build_task: Callable[[C, RunDir], Callable[[], Task]],
    reads: Callable[[C], Iterable[str]],
    tell: Callable[[C, StageDir, Mapping[str, Any]], list[str]],
    next_steps: Callable[[C, RunDir], list[str]],
    remarks: Callable[[C, RunDir], dict[str, str]] = lambda _cfg, _run: {},
) -> Job[C]:
    """Builds the job that trains one kind of task.

    Args:
        name: See ``Job``.
        schema: The job's config, with the training config as ``train``.
        stage: See ``Job``.
        resolve: Config, run -> the inputs of the task.
        build_task: Config, run -> a function that builds the task, for every worker to call.
        reads: See ``Job``.
        tell: See ``Job``.
        next_steps: See ``Job``.
        remarks: Config, run -> remarks about the data for the user, by name. They are printed
            before training and stored in the summary.
    """

    def run_stage(cfg: C, run: RunDir, folder: StageDir) -> dict[str, object]:
        from ray_jobs.training.trainer import fit  # --dry-run can spare what it imports

        found = remarks(cfg, run)
        for line in found.values():
            print(f"{folder.name}: {line}", flush=True)
        return fit(folder, cfg.train, build_task(cfg, run)) | found

    return Job(
        name=name,
        schema=schema,
        stage=stage,
        inputs=lambda cfg, run: fingerprints(resolve(cfg, run)),
        check=lambda cfg, run: check(
            cfg.train,
            run.stage(stage(cfg)),
            fingerprints(resolve(cfg, run)),
            build_task(cfg, run),
        ),
        resources=lambda cfg: resources(cfg.train),
        can_be_alone=lambda cfg, _: can_be_alone(cfg.train),
        plan=lambda cfg, run: [
            *plan(cfg.train, build_task(cfg, run)(), resolve(cfg, run)),
            *remarks(cfg, run).values(),
        ],
        run=run_stage,
        reads=reads,
        tell=tell,
        next_steps=next_steps,
        reached=reached,
    )


def label_remark(labeled_shards: str, section: Any, frame_stack: int) -> dict[str, str]:
    """Says how many labels a training sees. ``section`` has ``label_fraction`` and ``label_seed``.

    Returns:
        The remark by its name.
    """
    found = count_labels(labeled_shards, section.label_fraction, section.label_seed, frame_stack)
    return {"labels": f"Trained on the actions of {label_words(*found)}."}


def check(
    cfg: TrainConfig, stage: StageDir, inputs: Iterable[str], build_task: Callable[[], Task]
) -> None:
    """Finds errors that would stop the training before its first step.

    Config sections have checked themselves before. This function checks the config against the
    stage's folder and the shards: it builds the task as a worker will, and divides its clips among
    the workers.

    Args:
        cfg: The training config.
        stage: The stage's folder, in which training begins or goes on.
        inputs: Names of the task's inputs.
        build_task: Builds the task, as on every worker.

    Raises:
        ConfigError: Steps, batch or models do not fit what is there.
    """
    chosen = {cfg.engine.name, cfg.tracker.name if cfg.tracker else ""}
    for package in chosen & {"deepspeed", "wandb"}:
        if find_spec(package) is None:
            raise ConfigError(
                f"train chooses {package}, which is not installed. Install it with "
                "pip install 'lafp[train]', or set another train.engine or train.tracker."
            )
    done = reached(stage)["step"]
    if done > cfg.num_steps:
        raise ConfigError(
            f"train.num_steps is {cfg.num_steps}, but {stage.uri} has done {done} steps already. "
            f"Set it to {done} or more, or use another --run-name."
        )
    # If no finished model is read, tensors without data suffice, so a large model needs no memory.
    with nullcontext() if MODELS.intersection(inputs) else torch.device("meta"):
        task = build_task()
    if cfg.compile:
        check_compilable(task.module)
    MicroBatchLayout(
        demands=task.demands(),
        rank=0,
        world_size=cfg.num_workers,
        num_rounds=cfg.gradient_accumulation,
    )


def resolve(run: RunDir, name: str, uri: str | None, stages: Iterable[str]) -> TrainInput:
    """Returns the input at ``uri`` if it is given, else the first of the run's existing ``stages``.

    Raises:
        ConfigError: None of the stages is complete, or there is nothing finished at ``uri``.
    """
    stages = tuple(stages)
    if uri is not None:
        return given(name, uri, stages[0])
    found = [run.stage(stage) for stage in stages]
    stage = next((s for s in found if s.is_begun()), found[0])
    try:
        return TrainInput(name, stage.uri, stage.fingerprint())
    except ConfigError as error:
        raise ConfigError(f"{error} Or bring your own: {name}=FOLDER_OR_URI.") from None


def given(name: str, uri: str, stage: str) -> TrainInput:
    """Returns the input in a folder that the config names.

    Args:
        name: Name of the input, which is also its key in the config.
        uri: The folder.
        stage: Name of the stage whose kind of output the folder must hold.

    Raises:
        ConfigError: It holds something else.
    """
    uri = storage.absolute(uri)
    kind = stage.partition("/")[0]
    file, words, makes_it = _KINDS[kind]
    if not storage.is_file(storage.join(uri, file)):
        raise ConfigError(
            f"{name}: there is no {words} at {uri}: {file} is missing. Correct the path, or make "
            f"one with `python -m ray_jobs.{makes_it}`."
        )
    content = content_hash(uri)
    assert content is not None
    return TrainInput(name, uri, content)


def reached(stage: StageDir) -> dict[str, int]:
    """Returns the step of the last whole checkpoint; 0 if there is none."""
    return {"step": Checkpoints(stage.uri, num_to_keep=1).last_step() or 0}


def resolve_optional(
    run: RunDir, name: str, uri: str | None, stages: Iterable[str]
) -> TrainInput | None:
    """Works like ``resolve``. Returns None without ``uri`` if the run has begun no such stage."""
    stages = tuple(stages)
    if uri is None:
        stages = tuple(stage for stage in stages if run.stage(stage).is_begun())
    return resolve(run, name, uri, stages) if stages else None


def fingerprints(inputs: Iterable[TrainInput | None]) -> dict[str, str]:
    """Maps the names of inputs to the fingerprints that a stage records."""
    return {found.name: found.fingerprint for found in inputs if found}


def plan(cfg: TrainConfig, task: Task, inputs: Iterable[TrainInput | None]) -> list[str]:
    """Returns lines for ``--dry-run``: what would be trained, on what, and how."""
    module = task.module
    num_trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    lines = [f"{found.name}: {found.uri}" for found in inputs if found]
    lines.append(f"parameters: {num_trained:,} trained")
    for name, wanted in task.demands().items():
        num_clips = wanted.order.num_clips
        epochs = cfg.num_steps * wanted.clips_per_step / num_clips
        lines.append(
            f"clips of stream '{name}': {num_clips:,}, {wanted.clips_per_step} per step, "
            f"{epochs:.3g} epochs"
        )
    engine = cfg.engine.name
    if isinstance(cfg.engine, DeepSpeedConfig):
        engine += f", ZeRO stage {cfg.engine.zero_stage}"
    where = "GPUs" if cfg.use_gpu else "CPUs"
    lines += [
        f"steps: {cfg.num_steps:,} of {cfg.global_batch_size} windows",
        f"workers: {cfg.num_workers} on {where}, {engine}, {cfg.precision}; "
        f"micro-batch {cfg.micro_batch_size}, {cfg.gradient_accumulation} per step",
        f"ingest: {_ingest(cfg)}",
    ]
    return lines


def _ingest(cfg: TrainConfig) -> str:
    cache_mib = cfg.ingest.cache_bytes / 2**20
    if cfg.ingest.mode == "direct":
        threads = "a thread" if cfg.ingest.num_readers == 1 else f"{cfg.ingest.num_readers} threads"
        return f"{threads} in every worker, keeping up to {cache_mib:,.0f} MiB of decoded frames"
    num_readers = cfg.num_workers * cfg.ingest.num_readers
    return f"{num_readers} Ray Data readers, keeping up to {cache_mib:,.0f} MiB each"
