"""Checks a LAM's training data before its first step: can it be probed, does enough move?"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from lafp.data.shards.clip_tables import clip_batches
from lafp.data.shards.sets import open_shard_set
from lafp.evaluate.probes.probe_clips import MIN_FIT_EPISODES, MIN_HELD_OUT_EPISODES, probe_clips
from lafp.objectives.health import MIN_JUDGED_EPISODES
from lafp.runs.wording import counted

LEAST_MOTION = 4
"""Least median motion of a pair, in 1/10,000 as in ``pair_motion``. Below it, rounding to whole
levels and compression change pixels as much as the motion does. Measured on a slow arm of
Meta-World at 20 frames/s: z beat its controls at 6, and did not at 3."""
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
        ``no_probe``, ``few_episodes`` and ``little_motion``, each only where there is something to
        say.
    """
    remarks = {
        "no_probe": why_no_probe(labeled_shards, supervised) if labeled_shards else None,
        "few_episodes": few_episodes(labeled_shards, supervised) if labeled_shards else None,
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


def few_episodes(labeled_shards: str, supervised: frozenset[str] = frozenset()) -> str | None:
    """Says that a probe cannot tell what z is worth; None if it can, or if there is none."""
    num_fit, num_held_out = probe_clips(labeled_shards, supervised).num_episodes
    is_probed = num_fit >= MIN_FIT_EPISODES and num_held_out >= MIN_HELD_OUT_EPISODES
    if not is_probed or num_held_out >= MIN_JUDGED_EPISODES:
        return None
    text = (
        f"Few episodes: the probe is fitted on {num_fit} and measured on {num_held_out} held out. "
        "This is too few to tell whether z holds more about the actions than its controls; at "
        f"least {MIN_JUDGED_EPISODES} held-out ones are needed"
    )
    num = num_fit + num_held_out
    if supervised or num < 2 * MIN_JUDGED_EPISODES:
        return f"{text}. Preprocess more labeled episodes, under another name."
    # More than the share that is needed, because a hash of the episode decides on its split.
    share = min(0.5, 1.5 * MIN_JUDGED_EPISODES / num)
    return f"{text}: preprocess with val_fraction={share:.2g}, under another name."


def little_motion(shard_sets: Sequence[str]) -> str | None:
    """Says that most frame pairs hardly change, and which rate would help; None if enough do."""
    clips = [motion for uri in shard_sets for motion in _pair_motion(uri)]
    motion = _median_motion(clips, 1)
    if motion is None or motion >= LEAST_MOTION:
        return None
    text = (
        f"Little moves: between two neighbouring frames the training clips change by "
        f"{motion / 1e4:.2g} (median; 1 is black to white). Below {LEAST_MOTION / 1e4:g} rounding "
        "and compression change pixels as much as the motion does, so latent actions hold little"
    )
    fps = open_shard_set(shard_sets[0]).fps
    for stride in _STRIDES if fps else ():
        assert fps is not None
        motion, lower = _median_motion(clips, stride), f"{fps / stride:.3g}"
        # Twice the least, because the motions of a span partly cancel out.
        if motion is not None and motion >= 2 * LEAST_MOTION:
            return (
                f"{text}. At {lower} frames per second instead of {fps:.3g} it would be up to "
                f"{motion / 1e4:.2g}: preprocess with clip.fps={lower}, under another name."
            )
    return f"{text}. A lower clip.fps would not change that: choose videos in which more moves."


def _median_motion(clips: Sequence[np.ndarray], stride: int) -> float | None:
    """Returns the median motion of pairs that are ``stride`` steps apart; None without pairs."""
    spans = [c[: len(c) // stride * stride].reshape(-1, stride) for c in clips]
    moved = np.concatenate([span.sum(axis=1) for span in spans]) if spans else np.array([])
    return float(np.median(moved)) if len(moved) else None


def _pair_motion(uri: str) -> Iterator[np.ndarray]:
    """Reads the motion of each frame pair of a set's first training clips from its clip table."""
    batches = clip_batches(uri, ["pair_motion"], {"split": "train"})
    of_clips = (motion for batch in batches for motion in batch["pair_motion"].to_pylist())
    for motion in islice(of_clips, MAX_CLIPS_READ):
        yield np.asarray(motion or (), np.int64)
