"""Results of a study and of a sweep, as their runs' evaluations leave them: invented numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lafp.evaluate.rows.grouped import Results, merged, one_run
from lafp.evaluate.rows.results import DEMONSTRATOR, Result, Subject

NUM_EPISODES = 40
_OF_TRIAL = {("lapo", 0.1): 0.5, ("lapo", 1.0): 0.9, ("laom", 0.1): 0.7, ("laom", 1.0): 0.8}
"""Method, share of labels -> share of successes, a little more in the second seed."""


def _run(
    uri: str, subjects: Sequence[Subject], shares: Mapping[str, float], **about: Any
) -> Results:
    """A method succeeds in the first share of its episodes, and in one more per seed."""
    rows, outcomes = [], {}
    for subject in subjects:
        num = min(NUM_EPISODES, round(shares[subject.label] * NUM_EPISODES) + about["seed"])
        outcomes[subject.label] = (np.arange(NUM_EPISODES) < num).astype(float)
        rows.append(Result.of(subject, "success", num / NUM_EPISODES, NUM_EPISODES))
    return one_run(uri, rows, outcomes, **about)


def study_of(subjects: Sequence[Subject], shares: Mapping[str, float]) -> Results:
    """Three seeds of one variant."""
    runs = (_run(f"/s/runs/clean-seed_{n}", subjects, shares, seed=n) for n in range(3))
    return merged(list(runs))


def sweep() -> Results:
    """Two methods, two shares of the labels, two seeds."""
    subjects = [
        Subject(label="flow", method="latent_flow"),
        Subject(label=DEMONSTRATOR, method=DEMONSTRATOR),
    ]
    runs = []
    for (method, fraction), share in _OF_TRIAL.items():
        for seed in (0, 1):
            uri = f"/s/runs/{method}-labels_{fraction:g}-seed_{seed}"
            about = {"variant": method, "label_fraction": fraction, "label_scope": "action_decoder"}
            about["labeled_transitions"] = round(1000 * fraction)
            about["labeled_episodes"] = round(20 * fraction)
            shares = {"flow": share, DEMONSTRATOR: 1.0}
            runs.append(_run(uri, subjects, shares, seed=seed, **about))
    return merged(runs)


LADDER = {
    "lapo": (0.15, 0), "lapo_k": (0.2, 0), "lapo_k_z": (0.3, 0),
    "laom_without_augmentation": (0.35, 0), "laom": (0.4, 0),
    "laom_labels_1": (0.45, 499), "laom_labels_5": (0.55, 2_495), "laom_labels_20": (0.7, 9_980),
    "labels_only_1": (0.12, 499), "labels_only_5": (0.25, 2_495), "labels_only_20": (0.5, 9_980),
    "laom_masks": (0.6, 0), "laom_masks_labels_5": (0.68, 2_495), "random_network": (0.1, 0),
}  # fmt: skip
"""Variant -> R² of the probe, and labeled transitions."""
UNTRAINED_R2 = 0.12
GROUNDS = {"distractors": 0.0, "clean": 0.2}
"""Ground -> what it adds to all R²."""


def ladder(names: Sequence[str] = tuple(LADDER), num_seeds: int = 3) -> Results:
    """Probes alone: latent action models with and without distractors, and their controls."""
    variants = {f"{name}-{ground}": (name, ground) for name in names for ground in GROUNDS}
    runs = []
    for seed in range(num_seeds):
        for variant, (name, ground) in variants.items():
            r2, num_labels = LADDER[name]
            # All models of a seed have the same luck, and a little of their own.
            luck = 0.05 * seed + 0.004 * ((len(name) + seed) % 3)
            r2 = r2 + luck + GROUNDS[ground]
            lam = Subject(
                label="lam", method="lam", variant=variant, objective="laom",
                labeled_transitions=num_labels, labeled_episodes=num_labels // 499,
            )  # fmt: skip
            values = {"probe_r2": r2, "probe_r2_noise": 0.9 * r2}
            if ground == "distractors":
                values |= {"probe_r2_seen": r2 + 0.02, "probe_r2_unseen": r2 - 0.1}
            untrained = UNTRAINED_R2 + luck + GROUNDS[ground]
            values["probe_gain_over_random_lam"] = r2 - untrained
            rows = [
                Result.of(lam, m, v, 3_992, low=v - 0.04, high=v + 0.04) for m, v in values.items()
            ]
            for control, value in (("embedding", 0.1 + GROUNDS[ground]), ("random_lam", untrained)):
                subject = replace(lam, label=control, method=control)
                rows.append(
                    Result.of(
                        subject, "probe_r2", value, 3_992, low=value - 0.04, high=value + 0.04
                    )
                )
            runs.append(one_run(f"/s/runs/{variant}-seed_{seed}", rows, {}, seed=seed))
    return replace(merged(runs), axes=variants)
