"""Knows which folders of a run or of a study a takedown reaches.

A run has ``shards/NAME`` and ``latents/NAME``. A study has ``stages/shards/NAME/KEY`` and
``stages/latents/NAME/KEY``, which its runs share.
"""

from data_pipelines.preprocess.taken_down import home_of
from lafp import storage
from lafp.config import ConfigError
from lafp.runs.run_dir import PROVENANCE, SHARED_STAGES

_WITH_PICTURES = ("evaluation", "lam_evaluation")
"""Stages that store frames of clips as pictures."""


def shard_sets(output: str) -> list[str]:
    """Returns the shard sets of a run or a study, or ``output`` if it is one.

    They may be unfinished.

    Raises:
        ConfigError: ``output`` is none of these.
    """
    of_run = _below(storage.join(output, "shards"))
    of_study = _below(storage.join(output, "stages", "shards"), num_levels=2)
    if found := of_run or of_study:
        return found
    if storage.is_file(storage.join(output, SHARED_STAGES)):
        study = output.rstrip("/").rpartition("/runs/")[0]
        raise ConfigError(
            f"output: {output} is a run of a study, and shares its shard sets with other runs. "
            f"Name the folder of the study, {study}."
        )
    if not any(
        storage.is_file(storage.join(output, name)) for name in ("shard_set.json", PROVENANCE)
    ):
        raise ConfigError(
            f"output: No shard set at {output}, and no run or study with shards. Name the folder "
            "of a run, of a study, or of a shard set."
        )
    return [storage.join(output)]


def latent_folders(shards: str) -> list[str]:
    """Returns the folders of all latent sets of a shard set's run or study."""
    if home_of(shards) == shards.rstrip("/"):
        return []
    stages, _, name = shards.rstrip("/").rpartition("/shards/")
    return _below(storage.join(stages, "latents"), num_levels=name.count("/") + 1)


def pages_and_pictures(home: str) -> list[str]:
    """Returns all pages and pictures of a run or study that may show clips."""
    runs = [home, *_below(storage.join(home, "runs"))]
    stages = [storage.join(home, name) for name in _WITH_PICTURES]
    for name in _WITH_PICTURES:
        stages += _below(storage.join(home, "stages", name))
    found = [storage.join(folder, "report.html") for folder in (*runs, *stages)]
    found += [
        storage.join(folder, name) for folder in stages for name in ("latent_views", "transfer.png")
    ]
    return [uri for uri in found if storage.exists(uri)]


def mask_folders(home: str) -> list[str]:
    """Returns the folders of a run in which ``draw_masks`` has written."""
    return _below(storage.join(home, "masks"))


def _below(folder: str, num_levels: int = 1) -> list[str]:
    """Returns the folders so many levels below a folder."""
    found = [folder]
    for _ in range(num_levels):
        found = [storage.join(each, name) for each in found for name in storage.list_folders(each)]
    return found
