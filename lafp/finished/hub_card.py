"""Gathers what a run publishes, and writes the README.md of its repository on the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lafp import storage
from lafp.config import ConfigError
from lafp.finished.hub import README
from lafp.finished.load import lam_behind
from lafp.finished.model_card import FILE as LAM_CARD
from lafp.finished.model_card import measured, table
from lafp.finished.saved_model import ACTION_HEAD, TUNED_POLICY, read_card
from lafp.runs.run_dir import CONFIG, RunDir, StageDir

_MODEL = ("model.json", "model.safetensors")
_HEAD = """\
---
library_name: lafp
pipeline_tag: robotics
tags: [robotics, lafp, latent-action-model]
---"""
_LIMITS = """\
- Observations must be as in the table. Frames at another rate or size, or of other scenes than the
  training videos, were not measured.
- Safety was not assessed. Do not let the model act on people or machines without separate checks.
- The files are JSON, YAML and safetensors, and hold no code. Weights must have the hash in
  `model.json`."""


@dataclass(frozen=True)
class Published:
    """Everything that a run publishes."""

    files: Mapping[str, str]
    """Name in the repository -> URI of the file."""
    texts: Mapping[str, str]
    """Name in the repository -> content: the card, and configs as the repository needs them."""


def published(run: RunDir, uri: str) -> Published:
    """Gathers the finished models of a run.

    Args:
        run: The run.
        uri: The repository, for the card's commands.

    Raises:
        ConfigError: There are no finished models, or its policies belong to several LAMs.
    """
    stages = [
        stage
        for folder in ("policy", "decoder")
        for stage in run.stages_below(folder)
        if stage.has("model.json")
    ]
    models = {stage.name: stage.uri for stage in stages}
    models |= {
        f"{stage.name}/{TUNED_POLICY}": stage.path(TUNED_POLICY)
        for stage in stages
        if stage.has(TUNED_POLICY, "model.json")
    }
    models |= _lam_models(run, stages)
    if not models:
        raise ConfigError(f"{run.uri} has no finished model. Give the folder of a trained run.")
    files = {
        f"{name}/{file}": storage.join(folder, file)
        for name, folder in models.items()
        for file in _MODEL
    }
    texts = {f"{stage.name}/{CONFIG}": _config(stage) for stage in stages if stage.has(CONFIG)}
    if lam_card := _lam_card(models):
        texts[f"lam/{LAM_CARD}"] = lam_card
    return Published(files, texts | {README: _readme(uri, models, texts, lam_card)})


def _config(stage: StageDir) -> str:
    config = stage.config()
    if config.get("lam"):
        # The path of this machine means nothing elsewhere, and the LAM lies beside.
        config["lam"] = None
    return yaml.safe_dump(config, sort_keys=False)


def _lam_models(run: RunDir, stages: Sequence[StageDir]) -> dict[str, str]:
    """Finds the LAM of the run, or the one that its policies were trained on elsewhere."""
    lams = {run.stage("lam").uri}
    for stage in stages:
        if stage.name.startswith("policy/") and stage.has(CONFIG) and "lam" in stage.config():
            lams.add(lam_behind(run, stage.uri))
    found = sorted(lam for lam in lams if storage.is_file(storage.join(lam, "model.json")))
    if len(found) > 1:
        raise ConfigError(
            f"{run.uri} has models on several LAMs: {', '.join(found)}. A repository holds one. "
            "Push runs with one LAM each."
        )
    models = {}
    for lam in found:
        models["lam"] = lam
        if storage.is_file(storage.join(lam, ACTION_HEAD, "model.json")):
            models[f"lam/{ACTION_HEAD}"] = storage.join(lam, ACTION_HEAD)
    return models


def _lam_card(models: Mapping[str, str]) -> str:
    path = storage.join(models["lam"], LAM_CARD) if "lam" in models else ""
    return storage.read_text(path) if path and storage.is_file(path) else ""


def _readme(uri: str, models: Mapping[str, str], texts: Mapping[str, str], lam_card: str) -> str:
    cards = {
        name: read_card(folder, _kind(name))
        for name, folder in models.items()
        if _kind(name) != "action_head"
    }
    parts = [
        _HEAD,
        f"# {uri.removeprefix('hf://')}",
        "Robot models that were pretrained on video with lafp: a latent action model infers what "
        "changed between two frames, a policy predicts it, and an action decoder turns it into "
        "robot actions.",
        "## How to use",
        _usage(uri, cards),
        "## Models",
        table(
            ("Folder", "Is", "Parameters", "Observation"), [_row(*item) for item in cards.items()]
        ),
        "## Training data",
        _section(lam_card, "Training data") or "The model card of the LAM does not say.",
        *_trained(texts),
        "## What was measured",
        measured(cards["lam"]["metrics"]) if "lam" in cards else "Nothing: there is no LAM.",
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _kind(name: str) -> Any:
    if name.endswith(f"/{ACTION_HEAD}"):
        return "action_head"
    return "policy" if name.endswith(f"/{TUNED_POLICY}") else name.partition("/")[0]


def _usage(uri: str, cards: Mapping[str, dict[str, Any]]) -> str:
    lines = ["# from a checkout of lafp: pip install '.[hub]'", "import lafp", ""]
    decoders = [name for name in cards if _kind(name) == "decoder"]
    cloned = [name for name, card in cards.items() if "action" in card["specs"]]
    options = [f'action_decoder="{name.partition("/")[2]}"' for name in decoders]
    options += [f'policy="{name.partition("/")[2]}"' for name in cloned if name not in decoders]
    for option in options:
        lines += [f'agent = lafp.Agent.load("{uri}", {option})']
    if options:
        lines += ["agent.reset()", "action = agent.act(image)  # every 1 / agent.fps seconds", ""]
    if "lam" in cards:
        lines.append(f'lam = lafp.load_lam("{uri}/lam")')
    return "```python\n" + "\n".join(lines).rstrip() + "\n```"


def _row(name: str, card: dict[str, Any]) -> tuple[str, str, str, str]:
    obs = card["specs"].get("obs")
    seen = "" if obs is None else (
        f"{obs['frame_stack']} RGB frames of {obs['height_px']}x{obs['width_px']} px at "
        f"{obs['fps']:g} per second"
    )  # fmt: skip
    kind = card["config"].get("name") or card["kind"]
    return f"`{name}`", f"{card['kind']} `{kind}`", f"{card['num_parameters']:,}", seen


def _section(card: str, title: str) -> str:
    """Returns the text of a section of a Markdown page."""
    return card.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def _trained(texts: Mapping[str, str]) -> list[str]:
    """Says how long policies and decoders were trained, and on which shards."""
    rows = []
    for name, text in texts.items():
        config = yaml.safe_load(text) if name.endswith(CONFIG) else {}
        if train := config.get("train"):
            shards = [str(config[key]) for key in ("shards", "labeled_shards") if config.get(key)]
            rows.append((
                f"`{name.removesuffix(f'/{CONFIG}')}`",
                f"{train['num_steps']:,} of {train['global_batch_size']}",
                ", ".join(f"`{item}`" for item in shards) or "those of the run",
            ))  # fmt: skip
    return [table(("Model", "Steps of windows", "Shard sets"), rows)] if rows else []
