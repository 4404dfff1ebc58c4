"""Checks a LAM's training data before its first step: can it be probed, does enough move?"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from lafp import storage
from lafp.data.shards.sets import open_shard_set
from lafp.evaluate.probe_clips import MIN_FIT_EPISODES, MIN_HELD_OUT_EPISODES, probe_clips
from lafp.runs.wording import counted
from lafp.storage.tables import iter_rows

MAX_STILL_SHARE = 0.5
"""Share of the training pairs. If more of them show no change at all, most latents mean nothing."""
MAX_CLIPS_READ = 2000
_STRIDES = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30)


def data_remarks(
    shard_sets: Sequence[str],
    labeled_shards: str | None,
    supervised: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Says, by topic, what a user should know about the data.

    Args:
        shard_sets: Shard sets that the LAM is trained on.
        labeled_shards: The set with actions, if there is one.
        supervised: Ids of its clips whose actions supervise the LAM.

    Returns:
        ``no_probe`` and ``little_motion``, each only where there is something to say.
    """
    remarks = {
        "no_probe": why_no_probe(labeled_shards, supervised) if labeled_shards else None,
        "little_motion": little_motion(shard_sets),
    }
    return {name: text for name, text in remarks.items() if text}


def why_no_probe(labeled_shards: str, supervised: frozenset[str] = frozenset()) -> str | None:
    """Says why true actions cannot be probed on a labeled set, and what to do; None if they can."""
    num_fit, num_held_out = probe_clips(labeled_shards, supervised).num_episodes
    if num_fit >= MIN_FIT_EPISODES and num_held_out >= MIN_HELD_OUT_EPISODES:
        return None
    if supervised:
        return (
            f"Not measured: whether z holds the true actions. Beside the episodes of "
            f"{labeled_shards} that supervise z, at least {MIN_FIT_EPISODES} are needed to fit the "
            f"probe on and {MIN_HELD_OUT_EPISODES} to measure it on. Preprocess more labeled "
            "episodes, under another name, or lower supervision.label_fraction."
        )
    num, needed = num_fit + num_held_out, MIN_FIT_EPISODES + MIN_HELD_OUT_EPISODES
    advice = "Preprocess more labeled episodes, under another name"
    if num >= needed:
        share = max(MIN_HELD_OUT_EPISODES / num, 0.2)
        advice = (
            f"There are {num} episodes, which is enough: preprocess them again, under another "
            f"name, with another val_fraction (such as {share:.2g}) or seed"
        )
    return (
        f"Not measured: whether z holds the true actions. {labeled_shards} has "
        f"{counted(num_fit, 'labeled training episode')} and {num_held_out} held out; the probe is "
        f"fitted on at least {MIN_FIT_EPISODES} and measured on at least "
        f"{counted(MIN_HELD_OUT_EPISODES, 'other')}. {advice}."
    )


def little_motion(shard_sets: Sequence[str]) -> str | None:
    """Says that most frame pairs show no change, and which rate would help; None if enough do."""
    clips = [motion for uri in shard_sets for motion in _pair_motion(uri)]
    still = _still_share(clips, 1)
    if still is None or still <= MAX_STILL_SHARE:
        return None
    text = (
        f"Little moves: {still:.0%} of the training pairs of neighbouring frames show no change "
        "at all, so their latent actions mean nothing"
    )
    fps = open_shard_set(shard_sets[0]).fps
    for stride in _STRIDES if fps else ():
        assert fps is not None
        share, lower = _still_share(clips, stride), f"{fps / stride:.3g}"
        if share is not None and share <= MAX_STILL_SHARE / 2:
            return (
                f"{text}. At {lower} frames per second instead of {fps:.3g} it would be about "
                f"{share:.0%}: preprocess with clip.fps={lower}, under another name."
            )
    return f"{text}. A lower clip.fps would not change that: choose videos in which more moves."


def _still_share(clips: Sequence[np.ndarray], stride: int) -> float | None:
    """Returns the share of pairs, ``stride`` steps apart, without motion; None without pairs."""
    spans = [c[: len(c) // stride * stride].reshape(-1, stride) for c in clips]
    moved = np.concatenate([span.sum(axis=1) for span in spans]) if spans else np.array([])
    return float((moved == 0).mean()) if len(moved) else None


def _pair_motion(uri: str) -> Iterator[np.ndarray]:
    """Reads the motion of each frame pair of a set's first training clips from its clip table."""
    rows = iter_rows(storage.join(uri, "clips.parquet"), ["split", "pair_motion"], batch_rows=500)
    training = (row for row in rows if row["split"] == "train")
    for row in islice(training, MAX_CLIPS_READ):
        yield np.asarray(row["pair_motion"] or (), np.int64)
