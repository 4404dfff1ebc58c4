"""Reads frozen models of the library transformers from local folders.

Nothing is downloaded, nothing is unpickled, and no code of a folder runs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lafp.config import ConfigError

CARD = "config.json"
_HASH_CHUNK_BYTES = 1 << 20


def model_files(folder: Path, what: str, like: str) -> list[Path]:
    """Lists ``config.json`` and the weights of a model.

    Args:
        folder: Local folder as on the Hugging Face hub.
        what: Name of the model in the error.
        like: Model on the hub whose download would do, and more that the user should know.

    Raises:
        ConfigError: The folder does not hold both.
    """
    weights = sorted(folder.glob("*.safetensors"))
    card = folder / CARD
    if not weights or not card.is_file():
        raise ConfigError(
            f"No {what} at {folder}: expected a local folder with {CARD} and *.safetensors, "
            f"e.g. a download of {like}"
        )
    return [card, *weights]


def read_card(folder: Path) -> dict[str, Any]:
    """Reads ``config.json``.

    Raises:
        ConfigError: It is no JSON object.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}. Download the folder again.") from None
    if not isinstance(card, dict):
        raise ConfigError(f"{path} holds no JSON object. Download the folder again.")
    return card


def files_sha256(paths: Sequence[Path]) -> str:
    """Hashes the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def load_pretrained(model_class: Any, folder: Path) -> Any:
    """Loads a model in float32 onto the CPU.

    Args:
        model_class: A class of transformers with ``from_pretrained``.
        folder: Local folder, see ``model_files``.

    Raises:
        ConfigError: Weights are missing or have another shape than the config says.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, found = model_class.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers fills missing weights at random, and only warns.
    if missing := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise ConfigError(
            f"The weights in {folder} do not fit its config.json: {len(missing)} are missing or of "
            f"another shape, e.g. {missing[0]}. Download the folder again."
        )
    return model
