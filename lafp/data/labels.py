"""Describes the actions of labeled shard sets, and chooses episodes whose actions are used."""

import math
from dataclasses import fields
from typing import NamedTuple

from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.data.order.clips import ClipOrder
from lafp.data.randomness import derive_seed
from lafp.data.shards.clip_tables import clip_batches, rows_of_clips
from lafp.data.shards.format import Labels, Split
from lafp.data.shards.sets import open_shard_set
from lafp.types import ActionSpec

UNSEEN = "unseen"
"""Name of the folder of held-out labeled episodes that look different from those of training."""
_IN_UNSEEN = rf"(\A|/){UNSEEN}/[^/]*\z"


def action_spec(labeled_shards: str) -> ActionSpec:
    """Reads the action spec of a labeled set.

    Raises:
        ConfigError: There is no such set, or it has no labels.
    """
    action = open_shard_set(labeled_shards).action
    if action is None:
        raise ConfigError(
            f"{labeled_shards} has no actions. Preprocess a source that has labels, or train "
            "without labeled shards."
        )
    known = {f.name for f in fields(ActionSpec)}
    return config_from_dict(ActionSpec, {k: v for k, v in action.items() if k in known})


def vector_dims(shards: str) -> dict[str, int]:
    """Returns the sizes of ``state`` and ``condition`` in a set's clips; 0 where they have none."""
    ref = next(ClipOrder(shard_set=shards, split="train", seed=0).visits())
    location = ref.location
    if not location.labels_bytes:
        return {"state": 0, "condition": 0}
    shard = storage.join(shards, ref.shard)
    # One clip tells for all: preprocessing rejects clips whose vectors have another size.
    data = storage.read_bytes(shard, location.labels_offset, location.labels_bytes)
    try:
        labels = Labels.from_bytes(data)
    except ValueError as error:
        raise ConfigError(f"{shard}: {error}. Write the shard set again.") from None
    found = {"state": labels.state, "condition": labels.condition}
    return {name: 0 if array is None else array.shape[-1] for name, array in found.items()}


def labeled_episodes(shards: str, split: Split) -> dict[str, str]:
    """Maps the id of every labeled clip of a split to its episode's id."""
    columns, labeled = {"clip_id": str, "episode_id": str}, {"split": split, "has_labels": True}
    return {
        clip: episode
        for batch in clip_batches(shards, columns, labeled)
        for clip, episode in zip(*(batch[name].to_pylist() for name in columns), strict=True)
    }


def unseen_clips(shards: str) -> frozenset[str]:
    """Returns the ids of the clips whose video lies in a folder called ``unseen``."""
    import pyarrow.compute as pc

    found = (
        batch["clip_id"].filter(pc.match_substring_regex(batch["video_uri"], _IN_UNSEEN))
        for batch in clip_batches(shards, {"clip_id": str, "video_uri": str})
    )
    return frozenset(clip for ids in found for clip in ids.to_pylist())


def labeled_subset(shards: str, split: Split, fraction: float, seed: int) -> frozenset[str]:
    """Returns the clips of a random share of a split's labeled episodes.

    Episodes are ranked by a hash of (seed, episode id). So subsets of one seed are nested (1 % in
    2.5 % in 5 %), do not depend on the order of files, and never separate the clips of an episode.

    Args:
        shards: URI of the labeled set.
        split: The split.
        fraction: Share in (0, 1], rounded up to whole episodes.
        seed: Seed of the ranking.

    Returns:
        Clip ids.

    Raises:
        ValueError: ``fraction`` is out of range.
        ConfigError: The split has no labeled clips.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}.")
    episode_of = labeled_episodes(shards, split)
    if not episode_of:
        raise ConfigError(f"No labeled {split} clips in {shards}.")
    ranked = sorted(set(episode_of.values()), key=lambda e: (derive_seed(seed, "label", e), e))
    # Rounded first, because 0.07 * 100 is 7.000000000000001.
    chosen = set(ranked[: math.ceil(round(fraction * len(ranked), 9))])
    return frozenset(clip for clip, episode in episode_of.items() if episode in chosen)


class LabelCount(NamedTuple):
    """Number of labels. It is given in transitions too, because episodes differ in length."""

    transitions: int
    episodes: int


def count_labels(shards: str, fraction: float, seed: int, frame_stack: int) -> LabelCount:
    """Counts the transitions and episodes of the training clips of a ``labeled_subset``.

    A transition needs ``frame_stack`` frames up to its first, so the first frames of a clip are in
    none.
    """
    chosen = labeled_subset(shards, "train", fraction, seed)
    columns = {"clip_id": str, "episode_id": str, "num_frames": int}
    found = rows_of_clips(shards, list(chosen), columns)
    return LabelCount(
        transitions=sum(max(0, row["num_frames"] - frame_stack) for row in found),
        episodes=len({row["episode_id"] for row in found}),
    )


def labeled_order(
    shards: str, label_fraction: float, label_seed: int, *, seed: int, pool_shards: int
) -> ClipOrder:
    """Returns the order of visits to the training clips of a ``labeled_subset``.

    Args:
        shards: URI of the labeled set.
        label_fraction: Share of its episodes.
        label_seed: Seed of the choice of episodes.
        seed: Seed of the order.
        pool_shards: Number of shards whose clips are shuffled together.
    """
    subset = labeled_subset(shards, "train", label_fraction, label_seed)
    return ClipOrder(
        shard_set=shards, split="train", seed=seed, pool_shards=pool_shards, only_clips=subset
    )
