"""Hashes the content of a finished folder: a model, a shard set, or stored latent actions.

Folders with equal content have equal hashes, whatever their names. A folder whose content was
replaced has another hash.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from lafp import storage
from lafp.storage import strict_json


def content_hash(uri: str) -> str | None:
    """Hashes the content of a model, shard set or latent set; None for any other folder."""
    for file, read in _READERS.items():
        if storage.is_file(storage.join(uri, file)):
            return read(uri)
    return None


def _of_model(uri: str) -> str:
    return str(strict_json.read(dict[str, Any], storage.join(uri, "model.json"))["weights_sha256"])


def _of_shards(uri: str) -> str:
    from lafp.data.shards.sets import shards_sha256

    return shards_sha256(uri)


def _of_latents(uri: str) -> str:
    # The file holds the hashes of the model and of the clips, which decide the latents.
    return hashlib.sha256(storage.read_bytes(storage.join(uri, "latent_set.json"))).hexdigest()


_READERS: dict[str, Callable[[str], str]] = {
    "model.json": _of_model,
    "shard_set.json": _of_shards,
    "latent_set.json": _of_latents,
}
