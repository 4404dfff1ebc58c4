"""Results of a study and of a sweep, as their runs' evaluations leave them: invented numbers."""

from collections.abc import Mapping, Sequence
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
