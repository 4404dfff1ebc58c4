"""Curves over the share of labels: which rows make them, and what is written of them."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from lafp.evaluate.results import DEMONSTRATOR, Result, Subject
from lafp.evaluate.study import StudyResults
from lafp.evaluate.sweep import CurveKey, SweepResults
from lafp.report.sweep_page import write_sweep

NUM_EPISODES = 40
FRACTIONS = (0.1, 1.0)
SHARES = {("lapo", 0.1): 0.5, ("lapo", 1.0): 0.9, ("laom", 0.1): 0.7, ("laom", 1.0): 0.8}
"""Method, share of labels -> share of successes, a little more in the second seed."""
DEMONSTRATIONS = Subject(label="demonstrator", method=DEMONSTRATOR)


def trial(method, fraction, seed):
    """Rows of one trial, and its episodes."""
    num = round(SHARES[method, fraction] * NUM_EPISODES) + seed
    episodes = (np.arange(NUM_EPISODES) < num).astype(float)
    subject = Subject(label="flow", method="latent_flow", variant=method)
    row = Result.of(subject, "success", float(episodes.mean()), NUM_EPISODES)
    shown = replace(Result.of(DEMONSTRATIONS, "success", 1.0, NUM_EPISODES), variant=method)
    common = {"seed": seed, "label_fraction": fraction, "label_scope": "decoder"}
    return [replace(row, **common), replace(shown, **common)], episodes


@pytest.fixture
def sweep() -> SweepResults:
    """Two methods, two fractions, two seeds."""
    by_fraction, by_run = {}, {}
    for fraction in FRACTIONS:
        rows, success = [], {}
        for method in ("lapo", "laom"):
            for seed in (0, 1):
                found, episodes = trial(method, fraction, seed)
                rows += found
                success.setdefault((method, "flow"), {})[seed] = episodes
                by_run[f"/s/runs/{method}-labels_{fraction:g}-seed_{seed}"] = tuple(found)
        by_fraction[fraction] = StudyResults(rows=tuple(rows), outcomes=success, runs=())
    return SweepResults(by_fraction=by_fraction, by_run=by_run)


def test_a_curve_is_a_method_over_rising_fractions_with_intervals_over_both_seeds(sweep):
    curves = sweep.curves("success")
    assert set(curves) == {CurveKey(method=m, label="flow") for m in ("lapo", "laom")}
    lapo = curves[CurveKey(method="lapo", label="flow")]
    assert list(lapo) == [0.1, 1.0]
    assert lapo[0.1].interval.mean == pytest.approx(0.5 + 0.5 / NUM_EPISODES)
    assert lapo[0.1].interval.low < lapo[0.1].interval.mean < lapo[0.1].interval.high
    assert lapo[0.1].per_seed == (0.5, 0.525)


def test_the_best_run_is_the_one_with_the_highest_success_demonstrators_aside(sweep):
    uri, row = sweep.best("success")
    assert uri == "/s/runs/lapo-labels_1-seed_1" and row.value == pytest.approx(0.925)


def test_what_is_written_holds_every_cell_what_failed_and_what_was_shared(sweep, tmp_path):
    summary = write_sweep(
        str(tmp_path),
        "labels",
        sweep,
        {"laom-labels_0.5": "its disk was full"},
        {"train_lam": (2, 8)},
    )
    assert summary["best_run"].endswith("lapo-labels_1-seed_1")
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].split("|")[1:4] == [" Success, % ", " 10 % ", " 100 % "]
    assert sum(line.startswith("| la") for line in table) == 2 and "51 [" in "".join(table)
    latex = (tmp_path / "table.tex").read_text()
    assert latex.count(r"\\") == 3 and r"10 \%" in latex
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 16
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "its disk was full" in page and "What the trials share" in page
