"""Suggests what to do after a job: commands to copy and paths to open, printed at its end.

Every ``Job`` has one of these functions: config, complete run -> lines.
"""

import shlex
from typing import TYPE_CHECKING, Any

from lafp import storage
from lafp.runs.run_dir import RunDir

if TYPE_CHECKING:  # their modules import torch, which the driver need not load
    from data_pipelines.draw_masks import DrawMasksConfig
    from data_pipelines.label_latents import LabelLatentsConfig
    from data_pipelines.preprocess.config import PreprocessConfig
    from lafp.train.tasks.behavior_cloning import TrainBcConfig
    from lafp.train.tasks.decoder import TrainDecoderConfig
    from lafp.train.tasks.lam import TrainLamConfig
    from lafp.train.tasks.policy import TrainPolicyConfig

_DEFAULT_STORAGE = "runs"


def command(job: str, config: str, run: RunDir, *overrides: str) -> str:
    """Returns the command line of a job in this run."""
    folder, _, name = run.uri.rstrip("/").rpartition("/")
    words = ["python", "-m", f"ray_jobs.{job}", config, *overrides, "--run-name", name]
    if folder != storage.absolute(_DEFAULT_STORAGE):
        words += ["--storage", folder]
    return shlex.join(words)


def collect(_: object, run: RunDir) -> list[str]:
    """Suggests making shards of the demonstrations."""
    return [
        command("preprocess", f"configs/preprocess/{name}.yaml", run)
        for name in ("demonstrations", "labeled")
    ]


def draw_masks(cfg: "DrawMasksConfig", run: RunDir) -> list[str]:
    """Suggests making shards of the videos with their masks."""
    masks = run.stage(f"masks/{cfg.name}").path("mask_videos")
    overrides = (f"source={cfg.source}", f"masks.source={masks}")
    return [command("preprocess", "configs/preprocess/videos.yaml", run, *overrides)]


def preprocess(cfg: "PreprocessConfig", run: RunDir) -> list[str]:
    """Suggests looking through the shards, and training a LAM on them."""
    overrides = []
    if cfg.name not in ("videos", "labeled"):  # the shard sets that `train_lam` looks for
        key = "shards" if cfg.labels is None else "labeled_shards"
        overrides = [f"{key}={run.stage(f'shards/{cfg.name}').uri}"]
    return [
        shlex.join(["lafp", "view", run.uri]),
        command("train_lam", "configs/train_lam/videos.yaml", run, *overrides),
    ]


def train_lam(cfg: "TrainLamConfig", run: RunDir) -> list[str]:
    """Suggests looking at the LAM's latent actions, and training a policy on them."""
    return [
        command("evaluate", "configs/evaluate/latents.yaml", run),
        command(
            "train_policy",
            "configs/train_policy/latent_flow.yaml",
            run,
            f"window.frame_stack={cfg.window.frame_stack}",
        ),
    ]


def label_latents(cfg: "LabelLatentsConfig", run: RunDir) -> list[str]:
    """Suggests training a policy on the stored latents."""
    config = "configs/train_policy/latent_flow.yaml"
    return [command("train_policy", config, run, f"latents={cfg.name}")]


def train_policy(cfg: "TrainPolicyConfig", run: RunDir) -> list[str]:
    """Suggests training an action decoder for the policy, on labeled clips."""
    kind = "latent_flow" if "flow" in cfg.policy.name else "latent_bc"
    action_decoder = command(
        "train_decoder", f"configs/train_decoder/{kind}.yaml", run, f"policy={cfg.policy.name}"
    )
    if run.complete("shards/labeled"):
        return [action_decoder]
    labeled = command("preprocess", "configs/preprocess/labeled.yaml", run, "source=DATASET")
    return [f"{labeled}  # DATASET: episodes with actions", action_decoder]


def train_decoder(cfg: "TrainDecoderConfig", run: RunDir) -> list[str]:
    """Suggests acting with the decoder and its policy."""
    return [_agent(run, action_decoder=cfg.name)]


def train_bc(cfg: "TrainBcConfig", run: RunDir) -> list[str]:
    """Suggests acting with the policy."""
    return [_agent(run, policy=cfg.name)]


def evaluate(_: object, run: RunDir) -> list[str]:
    """Suggests making the report."""
    return [command("report", "configs/report/default.yaml", run)]


def evaluate_lam(_: object, run: RunDir) -> list[str]:
    """Suggests looking at the page, and at how z was learned."""
    folder = run.stage("lam_evaluation")
    return [
        f"open {folder.path('report.html')} in a browser",
        f"compare LAMs by their tables: {folder.path('results.parquet')}",
    ]


def report(_: object, run: RunDir) -> list[str]:
    """Suggests looking at the page."""
    return [f"open {run.stage('report.html').uri} in a browser"]


def pipeline(cfg: Any, run: RunDir) -> list[str]:
    """Suggests looking at the page, and acting with the first decoder."""
    decoders = cfg.train_decoder[:1]
    return [
        *report(cfg, run),
        *(_agent(run, action_decoder=action_decoder.name) for action_decoder in decoders),
    ]


def study(_: object, run: RunDir) -> list[str]:
    """Suggests looking at the page and the table."""
    return [*report(_, run), f"read all numbers in {run.stage('table.md').uri}"]


def _agent(run: RunDir, **which: str) -> str:
    arguments = ", ".join(f'{key}="{name}"' for key, name in which.items())
    return f'act, in Python: agent = lafp.Agent.load("{run.uri}", {arguments})'
