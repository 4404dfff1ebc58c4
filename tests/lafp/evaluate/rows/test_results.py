import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.results import Result, Subject, read_results, write_results
from lafp.storage.tables import schema_of

PUBLISHED = Path(__file__).parents[4] / "docs/results"
LONG_FORM = [
    "study",
    "task",
    "distractors",
    "objective",
    "supervision_weight",
    "method",
    "anchor_low",
    "anchor_high",
    "anchor_steps",
    "noise",
    "solver_steps",
    "sample_actions",
    "label_fraction",
    "label_scope",
    "seed",
    "metric",
    "value",
    "n",
]


def test_the_table_has_the_columns_of_every_study():
    assert set(LONG_FORM) <= set(schema_of(Result).names)


def test_rows_survive_a_round_trip(tmp_path):
    subject = Subject(
        label="LAFP", method="latent_flow", distractors=True, anchor_low=0.0, anchor_high=1.0,
        anchor_steps="remaining", seed=3,
    )  # fmt: skip
    assert subject.anchor_time is None and subject.anchors == (0.0, 1.0)
    rows = [
        Result.of(subject, "success", 0.75, 300, low=0.7, high=0.8),
        Result.of(Subject(label="lam", method="lam"), "probe_r2", -0.1, 50),
    ]
    write_results(f"{tmp_path}/results.parquet", rows)
    assert read_results(f"{tmp_path}/results.parquet") == rows
    assert pq.read_schema(tmp_path / "results.parquet").equals(
        schema_of(Result), check_metadata=False
    )


def test_an_undefined_value_stays_undefined(tmp_path):
    row = Result.of(Subject(label="BC", method="latent_bc"), "mode_coverage", math.nan, 0)
    write_results(f"{tmp_path}/results.parquet", [row])
    assert math.isnan(read_results(f"{tmp_path}/results.parquet")[0].value)


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.parquet")), ids=lambda path: path.stem)
def test_published_tables_can_be_read_and_have_an_outcome(path):
    """Old ones hold a metric that is not measured any more."""
    results = one_run(str(path), read_results(str(path)), {})
    assert results.outcome in ("success", "return_above_random", "return")
    assert results.of_metric(results.outcome)
