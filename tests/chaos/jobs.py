"""The jobs that are killed: what they read, their commands, how far they are, and their results."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from lafp.storage.json_lines import read_lines
from lafp.train.checkpoint_files import is_whole
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import write_shard_set
from tests.synthetic_video import moving_square, write_video

NUM_STEPS, CHECKPOINT_EVERY = 60, 5
_TIMES = ("provenance.json", "summary.json", "starts.jsonl", "metrics.jsonl", "config.yaml")
"""Files that hold times and paths: only that they are there is compared."""
_TIMES_OF_A_STUDY = (
    *("log.txt", "report.html", "latency.json", "model_card.md"),
    *("table.md", "table.tex"),
)
"""Files of a study that hold times too."""
_OF_THE_WEIGHTS = ("step", "loss", "val/loss", "probe/r2", "probe/mse")
"""Metrics in a model's card that do not tell of times and memory."""
_OF_KILLS = ("failures.jsonl", "notes.jsonl")
"""Files that tell of kills, so only a run that was killed has them."""


@dataclass(frozen=True)
class Job:
    """A command that is killed and run again until it ends."""

    prepare: Callable[[Path], None]
    """Writes what the command reads, once, into a folder that all runs share."""
    begin: Callable[[Path, Path], None]
    """Prepared folder, a run's folder -> None. Readies the run."""
    command: Callable[[Path, Path], list[str]]
    """Prepared folder, a run's folder -> what follows ``python -m``."""
    progress: Callable[[Path], int]
    """A run's folder -> a number that grows with the work that is done."""
    victims: tuple[str, ...]
    """Kinds of processes that there are; those named twice are killed more often."""
    num_kills: int
    """Kills of a whole campaign."""
    ray_address: str = "local"
    """``RAY_ADDRESS`` of the command. Empty for a job that runs without Ray."""
    saved: Callable[[Path], int] = lambda _: 0
    """A run's folder -> the step of the last whole checkpoint."""


def result(run: Path) -> dict[str, str]:
    """Every file of a run, hidden ones too: its content where that is determined."""
    found = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.name in _OF_KILLS:
            continue
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            timeless = [row for row in rows if not str(row.get("metric")).startswith("latency")]
            found[name] = _sha256(str(timeless).encode())
        elif path.name == "model.json":
            card = json.loads(path.read_text())
            card["metrics"] = {k: v for k, v in card["metrics"].items() if k in _OF_THE_WEIGHTS}
            found[name] = str(card)
        elif path.name == "metrics.jsonl":
            found[name] = str([(r["step"], r.get("loss")) for r in read_lines(str(path))])
        elif (
            path.name == "takedowns.jsonl"
            or path.name in _TIMES
            or "/checkpoints/" in name
            or ((run / "stages").is_dir() and path.name in _TIMES_OF_A_STUDY)
        ):
            found[name] = "there"
        else:
            found[name] = _sha256(path.read_bytes())
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _num(run: Path, pattern: str) -> int:
    return sum(1 for _ in run.glob(pattern))


# ---------------------------------------------------------------------------------------------


def _write_videos(folder: Path) -> None:
    source = folder / "source"
    source.mkdir(parents=True)
    for i in range(14):
        write_video(source / f"{i:03d}.mp4", moving_square(60 + i, 160, 240, seed=i))
    (source / "bad.mp4").write_text("<html>404</html>")


def _preprocess(folder: Path, run: Path) -> list[str]:
    overrides = ["clip.min_frames=8", "clip.max_s=3", "tasks.videos_per_task=2"]
    overrides += ["shards.max_bytes=200000", "filters.drop_duplicates=false"]
    config = ["ray_jobs.preprocess", "configs/preprocess/videos.yaml"]
    return [*config, f"source={folder}/source", *overrides, *_where(run)]


def _where(run: Path) -> list[str]:
    return ["--storage", str(run.parent), "--run-name", run.name]


def _preprocess_progress(run: Path) -> int:
    folder = run / "shards/videos"
    if (folder / "summary.json").exists():
        return 1_000
    num_shards = _num(folder, "*.tar")
    return 100 + num_shards if num_shards else _num(folder, "work/*/part-*.json")


def _train(engine: str, num_workers: int, folder: Path, run: Path) -> list[str]:
    overrides = {
        "shards": f"{folder}/shards",
        "objective.encoder.channels": "[8]",
        "objective.encoder.embed_dim": "16",
        "objective.fdm.channels": "[8,8]",
        "objective.latent_action_dim": "4",
        "objective.bottleneck": "{name: none}",
        "train.engine": engine,
        "train.num_workers": str(num_workers),
        "train.num_steps": str(NUM_STEPS),
        "train.checkpoint_every_steps": str(CHECKPOINT_EVERY),
        "train.evaluate_every_steps": str(NUM_STEPS),
        "train.report_every_steps": "1",
        "train.max_failures": "1000",
        "train.ingest.mode": "direct",
    }
    keys = [f"{key}={value}" for key, value in overrides.items()]
    return ["ray_jobs.train_lam", "configs/train_lam/lapo_debug.yaml", *keys, *_where(run)]


def _train_progress(run: Path) -> int:
    with suppress(OSError):
        return (run / "lam/metrics.jsonl").read_bytes().count(b"\n")
    return 0


def _saved_step(run: Path) -> int:
    folders = (run / "lam/checkpoints").glob("step-*")
    return max((int(f.name[5:]) for f in folders if is_whole(str(f))), default=0)


def _write_labeled(folder: Path) -> None:
    write_shard_set(folder / "shards", 60, clips_per_shard=1)
    write_lam(str(folder / "lam"))


def _label_latents(folder: Path, run: Path) -> list[str]:
    config = ["ray_jobs.label_latents", "configs/label_latents/videos.yaml"]
    return [*config, f"shards={folder}/shards", f"lam={folder}/lam", *_where(run)]


def _write_run(folder: Path) -> None:
    from tests.data_pipelines.takedown.test_job import make, make_latents

    source = folder / "source"
    source.mkdir(parents=True)
    for i in range(8):
        write_video(source / f"{i}.mp4", moving_square(60 + 7 * i, seed=10 + i))
    run = folder / "run"
    make(source, run / "shards/videos")
    make_latents(run / "shards/videos", run / "latents/videos")


def _takedown(folder: Path, run: Path) -> list[str]:
    return ["ray_jobs.takedown", f"output={run}", f"video_uri={folder}/source/0.mp4"]


def _copy(folder: Path, run: Path) -> None:
    shutil.copytree(folder / "run", run)


def _study(_: Path, run: Path) -> list[str]:
    short = ["train_lam.train", "train_policy.0.train", "train_policy.1.train", "train_bc.0.train"]
    overrides = [f"pipeline.{name}.num_steps=10" for name in short]
    overrides += ["pipeline.evaluate.num_episodes=2", "pipeline.collect.num_episodes=8"]
    return ["ray_jobs.study", "configs/studies/tiny.yaml", *overrides, *_where(run)]


def _study_progress(run: Path) -> int:
    return _num(run, "**/summary.json") + _num(run, "**/checkpoints/*")


def _nothing(*_: Path) -> None:
    pass


_TRAININGS = {
    f"train_{name}_{num_workers}": Job(
        prepare=lambda folder: write_shard_set(folder / "shards", num_clips=20) and None,
        begin=_nothing,
        command=partial(_train, engine, num_workers),
        progress=_train_progress,
        victims=("driver", "worker", "worker", "raylet", "node"),
        num_kills=25,
        saved=_saved_step,
    )
    for name, engine in (("ddp", "{name: ddp}"), ("zero2", "{name: deepspeed, zero_stage: 2}"))
    for num_workers in (1, 2)
}
JOBS = {
    "preprocess": Job(
        prepare=_write_videos,
        begin=_nothing,
        command=_preprocess,
        progress=_preprocess_progress,
        victims=("driver", "worker", "worker", "sandbox", "sandbox", "raylet", "node"),
        num_kills=100,
    ),
    "preprocess_alone": Job(
        prepare=_write_videos,
        begin=_nothing,
        command=_preprocess,
        progress=_preprocess_progress,
        victims=("driver", "sandbox"),
        num_kills=40,
        ray_address="",
    ),
    **_TRAININGS,
    "study": Job(
        prepare=_nothing,
        begin=_nothing,
        command=_study,
        progress=_study_progress,
        victims=("driver", "worker", "worker", "raylet", "node"),
        num_kills=30,
    ),
    "takedown": Job(
        prepare=_write_run,
        begin=_copy,
        command=_takedown,
        progress=lambda run: len(list((run / "shards/videos").glob("*-????????.json"))),
        victims=("driver",),
        num_kills=20,
        ray_address="",
    ),
    "label_latents": Job(
        prepare=_write_labeled,
        begin=_nothing,
        command=_label_latents,
        progress=lambda run: _num(run, "latents/videos/train-*.json"),
        victims=("driver", "worker", "worker", "raylet", "node"),
        num_kills=20,
    ),
}
