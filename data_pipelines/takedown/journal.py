"""Defines the journal of a takedown, which is stored before the first step in a shard set."""

from dataclasses import dataclass, replace

from data_pipelines.preprocess.taken_down import Takedown
from data_pipelines.takedown.folders import latent_folders
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import check_shard_name
from lafp.storage import strict_json


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The content of ``takedown.json`` in a shard set. The file is deleted after the last step."""

    takedown: Takedown
    clip_ids: tuple[str, ...]
    """Clips to remove, and clips of other sets that rejects of this set name."""
    shards: dict[str, str | None]
    """Shard to rewrite -> its new name; None if no clip of it is left."""
    shards_sha256: str
    """``shards_sha256`` of the set before the first step."""
    latents: tuple[str, ...]
    """URIs of the latent sets of the set's run that were made from it."""

    def __post_init__(self) -> None:
        for shard in filter(None, (*self.shards, *self.shards.values())):
            check_shard_name(shard)


def journal_uri(shards: str) -> str:
    """Returns where the journal of a shard set lies."""
    return storage.join(shards, "takedown.json")


def read_journal(shards: str) -> Journal:
    """Reads the journal of an interrupted takedown.

    A shard set of strangers may bring one along, and what it names is deleted. So it may name
    shards, and latent sets of this run only, wherever the run lay before.

    Raises:
        ConfigError: It names other files, or is no journal.
    """
    try:
        journal = strict_json.read(Journal, journal_uri(shards))
    except strict_json.DamagedError as error:
        raise ConfigError(
            f"{journal_uri(shards)} is no journal of a takedown of this set: {error}. Delete it "
            "if the set comes from others, then run the command again."
        ) from None
    names = {uri.rpartition("/")[2] for uri in journal.latents}
    latents = tuple(uri for uri in latent_folders(shards) if uri.rpartition("/")[2] in names)
    return replace(journal, latents=latents)
