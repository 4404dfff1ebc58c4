"""Saves and loads finished models as ``model.safetensors`` and ``model.json``, without pickle."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import safetensors.torch
from torch import Tensor, nn

from lafp import storage
from lafp.config import ConfigError, config_to_dict
from lafp.storage import strict_json

FORMAT_VERSION = 2
TUNED_POLICY = "policy"
"""Folder inside an action decoder's folder, with the policy that was fine-tuned together with it.
"""
ACTION_HEAD = "action_head"
"""Folder inside a LAM's folder, with the head that predicted true actions in its training."""
ModelKind = Literal["lam", "policy", "decoder", "action_head"]


def save_model(
    uri: str,
    *,
    kind: ModelKind,
    config: object,
    specs: Mapping[str, object],
    module: nn.Module,
    metrics: dict[str, float],
) -> None:
    """Writes a finished model into the folder ``uri``.

    Args:
        uri: The folder, local or on S3.
        kind: Kind of the model, which is checked on loading.
        config: The component's config dataclass (with its ``name``), to rebuild the module from.
        specs: The other arguments of its constructor: dataclasses (``ObsSpec``, ``ActionSpec``) or
            scalars.
        module: The module on any device, with all of its weights gathered on this rank.
        metrics: Last value of every metric, for people who read the file.
    """
    # safetensors refuses tensors that are not contiguous, such as weights in channels last.
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    weights = safetensors.torch.save(state)
    card = {
        "format": FORMAT_VERSION,
        "kind": kind,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "config": config_to_dict(config),
        "specs": {name: config_to_dict(spec) for name, spec in specs.items()},
        "frozen_weights": _frozen_weights(module),
        "num_parameters": sum(p.numel() for p in module.parameters()),
        "metrics": metrics,
    }
    # The card is written last, because its presence says that the model is complete.
    storage.write_bytes(storage.join(uri, "model.safetensors"), weights)
    strict_json.write(storage.join(uri, "model.json"), card, indent=1)


def _frozen_weights(module: nn.Module) -> dict[str, object]:
    """Maps submodules whose weights are not stored with the model to path, hash and config."""
    return {
        name: part.frozen_weights
        for name, part in module.named_modules()
        if hasattr(part, "frozen_weights")
    }


def load_model(uri: str, kind: ModelKind) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a model that ``save_model`` wrote.

    Returns:
        The content of ``model.json``, and the state dict on the CPU.

    Raises:
        ConfigError: The model is missing or of another kind, this version does not read its
            format, or the weights do not match ``model.json``.
    """
    card = read_card(uri, kind)
    path = storage.join(uri, "model.safetensors")
    if not storage.is_file(path):
        raise ConfigError(
            f"{path} is missing, though model.json is there. Copy the whole folder, or train the "
            f"{kind} again."
        )
    weights = storage.read_bytes(path)
    if hashlib.sha256(weights).hexdigest() != card["weights_sha256"]:
        raise ConfigError(
            f"{uri}: model.safetensors is not the file that model.json describes. "
            f"Train the {kind} again, or copy both files again."
        )
    try:
        return card, safetensors.torch.load(weights)
    except Exception as error:  # SafetensorError, and what torch raises for sizes that do not fit
        raise ConfigError(f"{path} is damaged: {error}. Copy the folder again.") from None


def read_card(uri: str, kind: ModelKind) -> dict[str, Any]:
    """Reads only ``model.json``. Its ``weights_sha256`` identifies the exact model.

    Raises:
        ConfigError: The model is missing or of another kind, or this version does not read its
            format.
    """
    path = storage.join(uri, "model.json")
    if not storage.is_file(path):
        raise ConfigError(
            f"No finished {kind} at {uri}: model.json is missing. Correct the path, or "
            "train it first."
        )
    try:
        card = strict_json.read(dict[str, Any], path)
    except ValueError as error:
        raise ConfigError(f"{error}. Copy the folder again, or train the {kind} again.") from None
    if card.get("kind") != kind:
        raise ConfigError(
            f"{path} holds a {str(card.get('kind'))[:40]}, expected a {kind}. Name the folder of a "
            f"{kind}."
        )
    if card.get("format") != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {card.get('format')}, this lafp reads {FORMAT_VERSION}. "
            f"Train the {kind} again with this version, or use the version that wrote it."
        )
    for name, wanted in (("weights_sha256", str), ("config", dict), ("specs", dict)):
        if not isinstance(card.get(name), wanted):
            raise ConfigError(
                f"{path}: {name} is {str(card.get(name))[:40]!r}, which no lafp writes. Copy the "
                f"folder again, or train the {kind} again."
            )
    return card
