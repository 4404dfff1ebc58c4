"""Means over the seeds of a study, and what is written of them."""

from dataclasses import replace
from html import unescape

import numpy as np
import pyarrow.parquet as pq
import pytest

from lafp.evaluate.results import Result, Subject
from lafp.evaluate.study import StudyResults, merged
from lafp.report.blocks import NO_VALUE
from lafp.report.study_page import write_study
from lafp.report.study_tables import headline, markdown

NUM_EPISODES = 40
SHARES = {"latent_bc": 0.1, "naive": 0.4, "lafp": 0.9, "raw": 0.8}
SUBJECTS = {
    "latent_bc": Subject(label="latent_bc", method="latent_bc", variant="clean"),
    "naive": Subject(label="naive", method="latent_flow", anchor_time=0.0, noise="fresh",
                     solver_steps=4, variant="clean"),
    "lafp": Subject(label="lafp", method="latent_flow", anchor_time=0.5, noise="fresh",
                    solver_steps=4, variant="clean"),
    "raw": Subject(label="raw", method="latent_flow", anchor_time=1.0, noise="fresh",
                   solver_steps=4, variant="clean"),
}  # fmt: skip


def test_a_task_without_success_is_compared_by_its_return_and_the_probe_stands_beside_it():
    found = {"lafp": (0.6, "return_normalized"), "lam": (0.25, "probe_r2"),
             "embedding": (0.125, "probe_r2")}  # fmt: skip
    subject = replace(SUBJECTS["lafp"], variant=None)
    rows = [
        Result.of(replace(subject, label=label), metric, value, 10)
        for label, (value, metric) in found.items()
    ]
    rows[1] = replace(rows[1], low=0.2, high=0.3)
    outcomes = {(None, "lafp"): {0: np.full(10, 0.6)}}
    study = StudyResults(rows=tuple(rows), outcomes=outcomes, runs=())
    text = markdown(study)
    assert "reaches 60 % [60, 60] of the demonstrators' return" in text
    assert "| from latent actions | 0.25 [0.20, 0.30] |" in text
    assert "| from the observation's embedding | 0.12 |" in text, "one value has no interval"


def test_variants_with_one_method_each_stand_in_one_table_and_one_chart(tmp_path):
    rows, outcomes = [], {}
    for variant, r2, value in (("lapo", 0.1, 0.2), ("laom", 0.3, 0.75)):
        bc = replace(SUBJECTS["lafp"], variant=variant, label="bc", method="latent_bc")
        lam = replace(bc, label="lam", method="lam")
        for seed in (0, 1):
            episodes = np.full(10, value)
            outcomes.setdefault((variant, "bc"), {})[seed] = episodes
            rows.append(replace(Result.of(bc, "return_normalized", value, 10), seed=seed))
            rows.append(replace(Result.of(lam, "probe_r2", r2, 10), seed=seed))
    study = StudyResults(rows=tuple(rows), outcomes=outcomes, runs=("/s/runs/lapo-seed_0",))
    write_study(str(tmp_path), "distractors", study)
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2:] == [
        f"| lapo | 0.10 [0.10, 0.10] | {NO_VALUE} | {NO_VALUE} | 20 % [20, 20] |",
        f"| laom | 0.30 [0.30, 0.30] | {NO_VALUE} | {NO_VALUE} | 75 % [75, 75] |",
    ]
    assert (tmp_path / "plot.png").stat().st_size > 5000
    assert "All variants" in (tmp_path / "report.html").read_text()


def test_where_the_outcome_is_a_return_the_page_never_speaks_of_success(tmp_path):
    subject = replace(SUBJECTS["lafp"], variant=None)
    rows = [
        Result.of(replace(subject, label=f"at {time}", anchor_time=time), metric, 0.6, 10)
        for time in (0.0, 0.5, 1.0)
        for metric in ("return", "return_normalized")
    ]
    outcomes = {(None, row.label): {0: np.full(10, row.value)} for row in rows}
    results = StudyResults(rows=tuple(rows), outcomes=outcomes, runs=())
    write_study(str(tmp_path), "cheetah", results)
    page = unescape((tmp_path / "report.html").read_text())
    assert "Return over anchor_time of the action decoder's training, with 95 % intervals." in page
    assert "success" not in page.lower()


def test_where_demonstrators_earn_nothing_returns_are_compared_as_they_are(tmp_path):
    subject = replace(SUBJECTS["lafp"], variant=None)
    values = {"lafp": 3.5, "latent_bc": -1.25}
    subjects = {"lafp": subject, "latent_bc": replace(SUBJECTS["latent_bc"], variant=None)}
    rows = [
        Result.of(subjects[label], "return", value, 10, low=value - 1, high=value + 1)
        for label, value in values.items()
    ]
    outcomes = {(None, label): {0: np.linspace(v - 2, v + 2, 10)} for label, v in values.items()}
    study = StudyResults(rows=tuple(rows), outcomes=outcomes, runs=())
    assert study.outcome == "return"
    text = markdown(study)
    assert "reaches a return of 3.5 [" in text and "+4.75 over Latent BC" in text.replace(
        " [+4.75, +4.75]", ""
    )
    assert "| Latent BC |  |  | -1.25 [" in text and "%" not in text
    write_study(str(tmp_path), "bossfight", study)
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_a_seed_whose_demonstrators_earn_nothing_does_not_count_in_shares_of_theirs():
    subject = replace(SUBJECTS["lafp"], variant=None)
    good = StudyResults(
        rows=(replace(Result.of(subject, "return_normalized", 0.5, 10), seed=0),),
        outcomes={(None, "lafp"): {0: np.full(10, 0.5)}},
        runs=("/s/runs/seed_0",),
    )
    bad = StudyResults(
        rows=(replace(Result.of(subject, "return", 7.0, 10), seed=1),),
        outcomes={(None, "lafp"): {1: np.full(10, 7.0)}},
        runs=("/s/runs/seed_1",),
    )
    (row,) = merged([good, bad]).of_metric("return_normalized")
    assert row.interval.mean == 0.5 and row.per_seed == (0.5,)


@pytest.fixture
def study() -> StudyResults:
    """Three seeds; a method succeeds in the first share of its episodes, a little more per seed."""
    rows, success = [], {}
    for label, share in SHARES.items():
        for seed in range(3):
            num_successes = round(share * NUM_EPISODES) + seed
            episodes = (np.arange(NUM_EPISODES) < num_successes).astype(float)
            success.setdefault(("clean", label), {})[seed] = episodes
            row = Result.of(SUBJECTS[label], "success", float(episodes.mean()), NUM_EPISODES)
            rows.append(replace(row, seed=seed))
    return StudyResults(rows=tuple(rows), outcomes=success, runs=("/s/runs/clean-seed_0",))


def test_a_method_is_averaged_over_seeds_with_an_interval_that_holds_every_seed_mean(study):
    lafp = next(row for row in study.of_metric("success") if row.subject.label == "lafp")
    assert lafp.per_seed == (0.9, 0.925, 0.95)
    assert lafp.interval.mean == pytest.approx(0.925)
    assert (lafp.interval.num_seeds, lafp.interval.num_values) == (3, 3 * NUM_EPISODES)
    assert lafp.interval.low < 0.9 < 0.95 < lafp.interval.high


def test_a_seed_without_a_value_is_left_out_not_counted_as_zero(study):
    undefined = Result.of(SUBJECTS["lafp"], "mode_coverage", float("nan"), 0)
    known = Result.of(SUBJECTS["lafp"], "mode_coverage", 0.8, 40)
    rows = (replace(undefined, seed=0), replace(known, seed=1))
    (row,) = StudyResults(rows=rows, outcomes={}, runs=()).of_metric("mode_coverage")
    assert row.interval.mean == pytest.approx(0.8)
    assert row.per_seed == (0.8,)


def test_two_methods_are_compared_on_the_same_episodes(study):
    gain = study.gain("clean", "lafp", over="raw")
    assert gain.mean == pytest.approx(0.1)
    # All episodes that raw wins, LAFP wins too: the paired interval is narrower than either's own.
    assert 0 < gain.low < gain.high < 0.25


def test_the_headline_compares_with_the_better_cloning_naive_flow_and_raw_latents(study):
    text = headline(study, "clean")
    assert text is not None
    assert "+80 points" in text
    assert "+50 points" in text
    assert "+10 points" in text


def test_the_table_holds_every_method_with_its_seeds(study):
    lines = markdown(study).splitlines()
    (lafp,) = [line for line in lines if line.startswith("| LAFP")]
    assert "93 % [" in lafp
    assert lafp.endswith("| 90 92 95 |")
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(SHARES)


def test_the_study_is_written_as_table_plot_parquet_and_page(study, tmp_path):
    summary = write_study(str(tmp_path), "toy", study)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(tmp_path / "results.parquet").num_rows == len(study.rows)
    page = (tmp_path / "report.html").read_text()
    assert 'href="runs/clean-seed_0/report.html"' in page
    assert 'src="http' not in page
    (clean,) = (text for text in summary["findings"] if text.startswith("clean: "))
    assert "succeeds in 93 %" in clean
