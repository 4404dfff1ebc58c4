r"""Measure a latent action model, or a frozen encoder, alone: what does it hold of the actions?

python -m ray_jobs.evaluate_lam configs/evaluate_lam/default.yaml --run-name demo
python -m ray_jobs.evaluate_lam configs/evaluate_lam/default.yaml --run-name lapo-on-my-robot \
    lam=s3://models/lapo shards=runs/robot/shards/labeled
python -m ray_jobs.evaluate_lam configs/evaluate_lam/default.yaml --run-name dinov2-on-my-robot \
    encoder=/models/dinov2-base shards=runs/robot/shards/labeled

Writes results.parquet (long form), report.html and, of a LAM, transfer.png.
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "evaluate_lam", "lafp.evaluate.latents.config:EvaluateLamConfig", __doc__, can_be_alone=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.on_ray.tasks import run_each, run_tasks
from lafp import storage
from lafp.config import ConfigError
from lafp.data.held_out import check_frame_size
from lafp.data.labels import action_spec
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.lary_probe import check_lary_classes
from lafp.evaluate.latents.lary_tables import check_lary_table, tables_sha256
from lafp.evaluate.latents.measurements import (
    MeasuredFeatures,
    joined_rows,
    measure_latent_use,
    measure_representation,
    write_lary_table,
)
from lafp.evaluate.latents.representations import methods
from lafp.evaluate.latents.swapped_backgrounds import check_swapped
from lafp.evaluate.latents.transfer import can_predict
from lafp.evaluate.probes.probe_clips import probe_clips
from lafp.evaluate.probes.thorough_probe import MeasuredRow
from lafp.evaluate.probes.training_data import why_no_probe
from lafp.evaluate.rows import result_rows
from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.results import write_results
from lafp.evaluate.rows.subjects import encoder_subject, lam_subject, supervised_clips
from lafp.lam import load_lam
from lafp.models.dinov2 import backbone_files, backbone_sha256
from lafp.report.lam_findings import lam_evaluation_findings, lary_findings, skipped_parts
from lafp.report.lam_page import write_lam_page
from lafp.runs.run_dir import RunDir, StageDir
from lafp.storage import strict_json
from lafp.train.tasks.lam_shards import obs_spec
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job
from ray_jobs.training import jobs
from ray_jobs.training.jobs import TrainInput

REJECTS = "their frames cannot be read, see the .rejects.csv beside the table"


def resolve(cfg: EvaluateLamConfig, run: RunDir) -> tuple[TrainInput | None, TrainInput]:
    """Returns the LAM, if one is measured, and the labeled shards."""
    lam = None if cfg.encoder else jobs.resolve(run, "lam", cfg.lam, ("lam",))
    return lam, jobs.resolve(run, "shards", cfg.shards, ("shards/labeled",))


def resolve_swapped(cfg: EvaluateLamConfig) -> TrainInput | None:
    """Returns the shards with other backgrounds, if they are named."""
    if cfg.swapped_shards is None:
        return None
    return jobs.given("swapped_shards", cfg.swapped_shards, "shards/labeled")


def inputs(cfg: EvaluateLamConfig, run: RunDir) -> dict[str, str]:
    """Returns the fingerprints of models, clips and tables that are read."""
    found = jobs.fingerprints([*resolve(cfg, run), resolve_swapped(cfg)])
    if cfg.lary_tables:
        found["lary_tables"] = tables_sha256(cfg.lary_tables)
    folders = {"dinov2": cfg.dinov2, "encoder": cfg.encoder}
    return found | {name: backbone_sha256(path) for name, path in folders.items() if path}


def check(cfg: EvaluateLamConfig, run: RunDir) -> None:
    """Checks that the clips have the LAM's frame size, actions, and enough episodes."""
    lam, shards = resolve(cfg, run)
    action_spec(shards.uri)
    if lam is None:
        obs_spec(shards.uri, frame_stack=1)
    else:
        check_frame_size(shards.uri, load_lam(lam.uri).obs)
        for table in cfg.lary_tables:
            check_lary_table(table)
        if cfg.lary_probe_tables is not None:
            check_lary_classes(*cfg.lary_probe_tables)
    if cfg.lary_stride is not None and action_spec(shards.uri).is_discrete:
        raise ConfigError("lary_stride: LARY's regression needs continuous actions. Leave it out.")
    for folder in filter(None, (cfg.dinov2, cfg.encoder)):
        backbone_files(Path(folder))
    if (reason := why_no_probe(shards.uri, _supervised(lam, shards))) is not None:
        raise ConfigError(f"shards: {reason}")
    _paired(cfg, lam, shards)


def plan(cfg: EvaluateLamConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: what would be measured, and how large it is."""
    lam, shards = resolve(cfg, run)
    model = f"encoder: {cfg.encoder}"
    if lam is not None:
        loaded = load_lam(lam.uri)
        model = f"lam: {lam.uri} ({loaded.objective.cfg.name}, Z = {loaded.latent_action_dim})"
    return [
        model,
        f"shards: {shards.uri}",
        *_paired(cfg, lam, shards),
        *(f"z for LARY: {table.table}" for table in cfg.lary_tables),
        *([f"LARY's attentive probe: classes of {cfg.lary_probe}"] if cfg.lary_probe else []),
        f"probed, one task each: {', '.join(methods(cfg.dinov2, cfg.encoder))}",
        f"memory of the matrices of each probe: up to {cfg.max_memory_gb:g} GB",
        *_skipped(cfg, lam).values(),
    ]


def run_stage(cfg: EvaluateLamConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Does the missing measurements, then writes the table and the page."""
    lam, shards = resolve(cfg, run)
    lam_uri = lam.uri if lam else None
    supervised = _supervised(lam, shards)
    measured = (lam_uri, shards.uri, supervised)

    if (swapped := resolve_swapped(cfg)) is not None:
        print("\n".join(_paired(cfg, lam, shards)), flush=True)
        cfg = replace(cfg, swapped_shards=swapped.uri)
    rows = joined_rows(_represented(cfg, stage, measured))

    def measure_use() -> list[MeasuredRow]:
        call = (*measured, stage.uri, cfg)
        gpus = _num_gpus(cfg)
        (found,) = run_each(
            measure_latent_use, [call], title="z in use", unit="measurements", num_gpus=gpus
        )
        return found

    if lam is not None:
        rows += stage.once("use.json", list[MeasuredRow], measure_use)
    lary_lines = _write_lary_tables(cfg, stage, lam_uri)
    subject = lam_subject(lam.uri, shards.uri, None, None) if lam else encoder_subject()
    found = result_rows.thorough_probe_rows(subject, rows)
    write_results(stage.path("results.parquet"), found)
    results = one_run(run.uri, found, {})
    _, num_held_out = probe_clips(shards.uri, supervised).num_episodes
    *lines, what_next = lam_evaluation_findings(results, _skipped(cfg, lam), num_held_out)
    lines += [*lary_findings(results), *lary_lines, what_next]
    model = lam_uri or str(cfg.encoder)
    page = write_lam_page(stage.uri, run.name, results, lines, model, shards.uri)
    return {"findings": lines, "report": page}


def _supervised(lam: TrainInput | None, shards: TrainInput) -> frozenset[str]:
    """Returns the ids of the clips whose actions the measured model has seen."""
    return supervised_clips(lam.uri, shards.uri) if lam else frozenset()


def _paired(cfg: EvaluateLamConfig, lam: TrainInput | None, shards: TrainInput) -> list[str]:
    """Checks the shards with other backgrounds. Says how many clips pair, if there are such."""
    if (swapped := resolve_swapped(cfg)) is None:
        return []
    held_out = probe_clips(shards.uri, _supervised(lam, shards)).held_out
    counts = check_swapped(shards.uri, swapped.uri, held_out)
    return [f"swapped_shards: {swapped.uri} ({counts})"]


def _skipped(cfg: EvaluateLamConfig, lam: TrainInput | None) -> dict[str, str]:
    """Says what is not measured of a LAM, and why. An encoder has no z to be used."""
    if lam is None:
        return {}
    loaded = load_lam(lam.uri)
    return skipped_parts(can_predict(loaded), loaded.objective.cfg.name, cfg.dinov2)


def _represented(
    cfg: EvaluateLamConfig, stage: StageDir, measured: tuple[str | None, str, frozenset[str]]
) -> dict[str, MeasuredFeatures]:
    """Measures the representations that are missing, in a task each. Returns all by name."""
    names = methods(cfg.dinov2, cfg.encoder)
    paths = {name: stage.path("measured", f"{name}.json") for name in names}
    missing = [name for name, path in paths.items() if not storage.is_file(path)]
    calls = [(*measured, name, cfg) for name in missing]
    for index, found in run_tasks(
        measure_representation,
        calls,
        sizes=[1] * len(calls),
        title="probes",
        unit="measurements",
        num_gpus=_num_gpus(cfg),
    ):
        strict_json.write(paths[missing[index]], found)
    return {name: strict_json.read(MeasuredFeatures, path) for name, path in paths.items()}


def _write_lary_tables(cfg: EvaluateLamConfig, stage: StageDir, lam_uri: str | None) -> list[str]:
    """Writes the files for LARY, in a task per table. Says in a sentence each what was written."""

    def write() -> list[dict[str, Any]]:
        calls = [(lam_uri, table, stage.path("lary"), cfg) for table in cfg.lary_tables]
        gpus = _num_gpus(cfg)
        return run_each(
            write_lary_table, calls, title="z for LARY", unit="measurements", num_gpus=gpus
        )

    if not cfg.lary_tables:
        return []
    return [
        f"z of {table['num_rows']:,} rows for LARY: {table['table']}"
        + (f"; {table['num_rejects']:,} rows left out: {REJECTS}" if table["num_rejects"] else "")
        + "."
        for table in stage.once("lary.json", list[dict[str, Any]], write)
    ]


def _num_gpus(cfg: EvaluateLamConfig) -> int:
    """Returns the GPUs of each measurement."""
    return 1 if cfg.use_gpu else 0


JOB = Job(
    name="evaluate_lam",
    schema=EvaluateLamConfig,
    stage=lambda _: "lam_evaluation",
    inputs=inputs,
    check=check,
    resources=lambda cfg: Resources(num_cpus=1, num_gpus=_num_gpus(cfg)),
    # A GPU does one measurement at a time. Those on CPUs run side by side, as Ray tasks.
    can_be_alone=lambda cfg, _: cfg.use_gpu,
    plan=plan,
    run=run_stage,
    tell=findings.evaluate,
    next_steps=next_steps.evaluate_lam,
    reads=lambda cfg: ["shards/labeled"] if cfg.encoder else ["lam", "shards/labeled"],
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
