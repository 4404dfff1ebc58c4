from typing import get_type_hints

import numpy as np
import pytest

from data_pipelines.preprocess.action_statistics import ActionStatistics, label_sums
from data_pipelines.preprocess.rows import ClipRow
from lafp.data.shards.format import ClipRecord
from lafp.storage import strict_json


@pytest.fixture
def clips():
    """Dimensions of all kinds: normal, far from 0, heavy tails, constant, almost always 0."""
    rng = np.random.default_rng(0)
    rows = 3000
    columns = [
        rng.normal(size=rows),
        180 + rng.normal(size=rows),
        rng.standard_cauchy(size=rows),
        np.full(rows, -0.25),
        np.where(rng.uniform(size=rows) < 0.005, 1e-12, 0) + (rng.uniform(size=rows) > 0.98),
    ]
    return np.split(np.stack(columns, axis=1).astype(np.float32), np.arange(7, rows, 97))


def statistics_of(clips) -> ActionStatistics:
    statistics = ActionStatistics()
    for clip in clips:
        statistics.add(label_sums(clip))
    return statistics


def test_statistics_are_those_of_all_rows_together(clips):
    rows = np.concatenate(clips).astype(np.float64)
    found = statistics_of(clips).per_dimension()
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["min"], rows.min(axis=0))
    np.testing.assert_array_equal(found["max"], rows.max(axis=0))
    for name, share in (("q01", 0.01), ("q99", 0.99)):
        exact = np.quantile(rows, share, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(found[name], exact, rtol=1.01e-3, atol=1e-9)


def test_the_order_of_clips_does_not_matter(clips):
    there, back = (statistics_of(c).per_dimension() for c in (clips, clips[::-1]))
    for name in ("min", "max", "q01", "q99"):
        assert there[name] == back[name]
    np.testing.assert_allclose(there["std"], back["std"])


def test_sums_survive_json(clips):
    values = {str: "x", int: 1, float: 0.5, bool: True}
    fields = {name: values.get(kind, "val") for name, kind in get_type_hints(ClipRecord).items()}
    fields["pair_motion"] = (25, 50)
    clip = ClipRow(
        record=ClipRecord(**fields),
        part="p",
        video_offset=0,
        label_sums=label_sums(clips[0]),
    )
    assert strict_json.loads(ClipRow, strict_json.dumps(clip)) == clip


def test_discrete_actions_are_counted_by_their_largest():
    assert label_sums(np.array([0, 4, 2])).num_choices == 5
