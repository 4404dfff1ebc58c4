"""Writes a shard set and its latent actions as a LeRobot v3.0 dataset.

An episode is one clip, because only the frames within a clip follow each other at one rate. Its
rows are the frames that have a latent action. Clips that cannot be episodes are rows of
``rejects.parquet``.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.to_lerobot import layout
from data_pipelines.to_lerobot.dataset_files import DatasetFiles, OddEpisodeError
from data_pipelines.to_lerobot.episodes import Episode, rates_of, read_episodes
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.sets import open_shard_set, shards_sha256
from lafp.data.stored_latents import REJECTS_FILE, ClipReject, open_latent_set
from lafp.runs.lease import owned
from lafp.runs.wording import number
from lafp.storage import strict_json
from lafp.storage.tables import open_table
from lafp.storage.temporary import TemporaryFolder

_MADE_FROM = "meta/made_from.json"


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """Says what a dataset was made from: the content of ``meta/made_from.json``.

    The file is written first. So a folder with it and without ``meta/info.json`` is a dataset whose
    writing was interrupted.
    """

    shards_sha256: str
    lam_sha256: str
    latent_key: str
    task: str | None


@dataclass(frozen=True, kw_only=True)
class Written:
    """Says what a dataset holds."""

    num_episodes: int
    num_frames: int
    rejects: dict[str, int]
    """Reason -> number of clips that are no episodes."""


def to_lerobot(
    shards: str,
    latents: str,
    out: str,
    latent_key: str,
    task: str | None,
    say: Callable[[str], None],
) -> Written | None:
    """Writes the dataset. One whose writing was interrupted is written anew.

    Args:
        shards: URI of a shard set.
        latents: URI of a latent set of these shards.
        out: Folder of the dataset, local or S3.
        latent_key: Name of the feature of the latent actions.
        task: Task of every episode; None takes the name of each clip's source.
        say: Receives lines for the user.

    Returns:
        Counts; None if the dataset is there already.

    Raises:
        ConfigError: The latents are of other shards, the clips have several rates, or the folder
            holds something else.
        InUseError: Another process writes into the folder.
        StorageError: Reading or writing failed.
    """
    spec, made_from = open_shard_set(shards), _made_from(shards, latents, latent_key, task)
    fps = _one_rate(shards)
    with owned(out, None, say), TemporaryFolder() as folder:
        if not _begin(out, made_from):
            return None
        size_px = spec.height_px, spec.width_px
        files = DatasetFiles(out, Path(folder), fps, size_px, task)
        reasons: Counter[str] = Counter()
        with open_table(storage.join(out, REJECTS_FILE), ClipReject) as rejects:
            for found in read_episodes(shards, latents, latent_key):
                reject = found if isinstance(found, ClipReject) else _added(files, found)
                if reject is not None:
                    rejects.add(vars(reject))
                    reasons[reject.reason] += 1
        if not files.num_episodes:
            raise ConfigError(
                f"{shards} has no clip that could be an episode: {reasons_in_words(reasons)}. "
                f"{storage.join(out, REJECTS_FILE)} has the reasons."
            )
        files.close()
        return Written(
            num_episodes=files.num_episodes, num_frames=files.num_frames, rejects=dict(reasons)
        )


def reasons_in_words(reasons: Mapping[str, int]) -> str:
    """Lists how many clips were left out for which reason."""
    return ", ".join(f"{reason} {num:,}" for reason, num in sorted(reasons.items()))


def _made_from(shards: str, latents: str, latent_key: str, task: str | None) -> MadeFrom:
    spec, content = open_latent_set(latents), shards_sha256(shards)
    if spec.shards_sha256 != content:
        raise ConfigError(
            f"{latents} holds the latent actions of other shards than {shards}. Name their shard "
            "set, or label this one with `lafp label-latents`."
        )
    return MadeFrom(
        shards_sha256=content, lam_sha256=spec.lam_sha256, latent_key=latent_key, task=task
    )


def _one_rate(shards: str) -> float:
    rates = rates_of(shards)
    if len(rates) != 1:
        found = ", ".join(f"{number(fps)} ({num:,})" for fps, num in sorted(rates.items())[:5])
        raise ConfigError(
            f"The clips of {shards} have {len(rates)} rates: {found}, in frames per second, with "
            "the number of clips in brackets. A LeRobot dataset has one rate. Preprocess with one, "
            "such as clip.fps=10, and label anew."
        )
    return next(iter(rates))


def _begin(out: str, made_from: MadeFrom) -> bool:
    """Prepares the folder. Returns False if it holds this very dataset.

    Raises:
        ConfigError: It holds something else.
    """
    marker = storage.join(out, _MADE_FROM)
    is_ours = storage.is_file(marker)
    if storage.is_file(storage.join(out, layout.INFO)):
        if is_ours and strict_json.read(MadeFrom, marker) == made_from:
            return False
        raise ConfigError(f"{out} holds another dataset. Name another folder, or delete it first.")
    if not is_ours and next(storage.list_files(out), None) is not None:
        raise ConfigError(f"{out} holds other files. Name a folder that is empty or new.")
    # The marker stays where it is until it is replaced, so that this can be interrupted too.
    for part in ("data", "videos", "meta/episodes"):
        storage.delete_folder(storage.join(out, part))
    strict_json.write(marker, made_from, indent=1)
    return True


def _added(files: DatasetFiles, episode: Episode) -> ClipReject | None:
    """Appends an episode. Returns why not, if it does not fit."""
    try:
        files.add(episode)
    except OddEpisodeError as error:
        return episode.reject("labels_mismatch", str(error))
    except ValueError as error:
        return episode.reject("undecodable", str(error))
    return None
