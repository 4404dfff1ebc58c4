"""Means over seeds, intervals and differences of one or several runs."""

from dataclasses import replace

import numpy as np
import pytest

from lafp.evaluate.rows.grouped import MAX_DISTURBANCE, Results, merged, one_run
from lafp.evaluate.rows.results import Result, Subject
from tests.synthetic_results import NUM_EPISODES, study_of, sweep

SHARES = {"naive": 0.4, "lafp": 0.9, "raw": 0.8}
FLOW = Subject(label="lafp", method="latent_flow", anchor_low=0.5, anchor_high=0.5, variant="clean")


@pytest.fixture
def study() -> Results:
    return study_of([replace(FLOW, label=label) for label in SHARES], SHARES)


def test_a_method_is_averaged_over_seeds_with_an_interval_that_holds_every_seed_mean(study):
    lafp = study.of_variant("clean", "success")["lafp"]
    assert lafp.per_seed == (0.9, 0.925, 0.95)
    assert lafp.value == pytest.approx(0.925)
    assert (lafp.interval.num_seeds, lafp.interval.num_values) == (3, 3 * NUM_EPISODES)
    assert lafp.interval.low < 0.9 < 0.95 < lafp.interval.high


def test_a_single_seed_has_the_interval_of_its_row():
    row = Result.of(FLOW, "success", 0.5, 40, low=0.3, high=0.6)
    (group,) = one_run("/r", [row], {"lafp": np.ones(40)}).of_metric("success")
    assert (group.interval.low, group.value, group.interval.high) == (0.3, 0.5, 0.6)


def test_a_seed_without_a_value_is_left_out_not_counted_as_zero():
    undefined = one_run("/0", [Result.of(FLOW, "mode_coverage", float("nan"), 0)], {}, seed=0)
    known = one_run("/1", [Result.of(FLOW, "mode_coverage", 0.8, 40)], {}, seed=1)
    (group,) = merged([undefined, known]).of_metric("mode_coverage")
    assert group.value == pytest.approx(0.8)
    assert group.per_seed == (0.8,)


def test_two_methods_are_compared_on_the_same_episodes(study):
    groups = study.of_variant("clean", "success")
    gain = study.gain(groups["lafp"], groups["raw"])
    assert gain.mean == pytest.approx(0.1)
    # All episodes that raw wins, LAFP wins too: the paired interval is narrower than either's own.
    assert 0 < gain.low < gain.high < 0.25
    unknown = replace(groups["raw"].subject, label="unknown")
    alone = replace(groups["raw"], rows=(unknown,))
    assert study.gain(groups["lafp"], alone) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outcomes_that_are_not_finite_are_left_out(value):
    """They ended the report with a ValueError."""
    subjects = [replace(FLOW, label=label) for label in ("ours", "theirs")]
    rows = [Result.of(subject, "return_above_random", 0.5, 3) for subject in subjects]
    outcomes = {"ours": np.array([1.0, value, 0.5]), "theirs": np.array([0.5, value, value])}
    nothing = {label: np.full(3, value) for label in outcomes}
    study = merged([one_run("/0", rows, outcomes, seed=0), one_run("/1", rows, nothing, seed=1)])
    groups = study.of_variant("clean", "return_above_random")
    assert (groups["ours"].interval.mean, groups["ours"].interval.num_values) == (0.75, 2)
    gain = study.gain(groups["ours"], groups["theirs"])
    assert (gain.mean, gain.num_values) == (0.5, 1)


def test_a_seed_whose_demonstrators_earn_nothing_does_not_count_in_shares_of_theirs():
    subject = replace(FLOW, variant=None)
    good = Result.of(subject, "return_above_random", 0.5, 10)
    bad = Result.of(subject, "return", 7.0, 10)
    results = merged(
        [
            one_run("/s/runs/seed_0", [good], {"lafp": np.full(10, 0.5)}, seed=0),
            one_run("/s/runs/seed_1", [bad], {"lafp": np.full(10, 7.0)}, seed=1),
        ]
    )
    (group,) = results.of_metric("return_above_random")
    assert group.value == 0.5 and group.per_seed == (0.5,)
    assert results.outcome == "return_above_random" and results.seeds == [0, 1]


def timed(seed: int, ratio: float, disturbance: float | None) -> Results:
    rows = [Result.of(FLOW, "latency_b1_ratio", ratio, 20), Result.of(FLOW, "latency_b1_ms", 1, 20)]
    if disturbance is not None:
        rows.append(Result.of(FLOW, "latency_b1_disturbance", disturbance, 20))
    return one_run(f"/{seed}", rows, {}, seed=seed)


def test_timings_on_a_busy_machine_are_in_no_mean_and_are_still_in_the_table():
    results = merged([timed(0, 1.2, 0.03), timed(1, 0.6, 2 * MAX_DISTURBANCE), timed(2, 0.7, None)])
    (group,) = results.of_metric("latency_b1_ratio")
    assert group.per_seed == (1.2,)
    assert sum(row.metric == "latency_b1_ratio" for row in results.rows) == 3
    found = results.disturbance("clean")
    assert {0.03, 2 * MAX_DISTURBANCE} < set(found) and np.isnan(found).sum() == 1


def test_a_curve_is_a_method_over_rising_shares_with_intervals_over_both_seeds():
    curves = sweep().curves("success")
    assert set(curves) == {("lapo", "flow"), ("laom", "flow")}
    lapo = curves["lapo", "flow"]
    assert list(lapo) == sweep().label_fractions == [0.1, 1.0]
    assert lapo[0.1].value == pytest.approx(0.5 + 0.5 / NUM_EPISODES)
    assert lapo[0.1].interval.low < lapo[0.1].value < lapo[0.1].interval.high
    assert lapo[0.1].per_seed == (0.5, 0.525)


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("action_decoder", "2,000 labeled transitions (60 episodes)"),
        ("lam", "1,000 labeled transitions (30 episodes)"),
    ],
)
def test_only_the_labels_that_a_study_varies_are_counted(scope, words):
    decoder = replace(FLOW, label_fraction=0.1, labeled_transitions=2_000, labeled_episodes=60)
    lam = replace(
        decoder, label="lam", method="lam", supervision_weight=0.5,
        labeled_transitions=1_000, labeled_episodes=30,
    )  # fmt: skip
    without = replace(lam, supervision_weight=0.0, labeled_transitions=0, labeled_episodes=0)
    rows = [
        Result.of(replace(subject, label_scope=scope), "probe_r2", 0.5, 40)
        for subject in (decoder, lam, without, without, without)
    ]
    assert one_run("/r", rows, {}).labels_in_words(0.1) == words


def test_labels_of_the_lam_that_were_not_counted_are_written_as_their_share():
    decoder = replace(FLOW, label_fraction=0.1, labeled_transitions=2_000, labeled_episodes=60)
    row = Result.of(replace(decoder, label_scope="lam"), "success", 0.5, 40)
    assert one_run("/r", [row], {}).labels_in_words(0.1) == "10 % of the labels"


def probed(variant: str, values: dict[int, float], num_labels: int = 0) -> list[Results]:
    lam = Subject(label="lam", method="lam", variant=variant, labeled_transitions=num_labels)
    rows = {seed: [Result.of(lam, "probe_r2", value, 100)] for seed, value in values.items()}
    return [one_run(f"/{variant}-{seed}", of, {}, seed=seed) for seed, of in rows.items()]


def test_variants_are_compared_seed_by_seed_so_that_the_luck_of_a_seed_cancels_out():
    luck = {0: 0.0, 1: 0.3, 2: 0.6}
    ours = probed("laom", {seed: 0.2 + value for seed, value in luck.items()})
    # Another order, and a seed that the other variant has not.
    theirs = probed("lapo", {3: 0.9, **{seed: 0.1 + luck[seed] for seed in (2, 1, 0)}})
    laom, lapo = merged([*ours, *theirs]).of_metric("probe_r2")
    found = laom.difference(lapo)
    assert found.num_seeds == 3 and found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(found.high), "every seed has the same difference"
    assert laom.interval.high - laom.interval.low > 1


def test_a_grid_is_taken_apart_into_settings_that_differ_in_all_axes_but_the_first():
    variants = {
        f"{model}-{ground}": (model, ground) for model in ("lapo", "la-om") for ground in ("a", "b")
    }
    runs = [run for variant in variants for run in probed(variant, {0: 0.5})]
    assert merged(runs).settings == {"": {variant: variant for variant in variants}}
    assert replace(merged(runs), axes=variants).settings == {
        "a": {"lapo": "lapo-a", "la-om": "la-om-a"},
        "b": {"lapo": "lapo-b", "la-om": "la-om-b"},
    }
    assert one_run("/r", [], {}).settings == {"": {"": None}}


def test_one_common_seed_makes_no_difference_with_an_interval():
    laom, lapo = merged([*probed("laom", {0: 0.2, 1: 0.3}), *probed("lapo", {1: 0.1})]).of_metric(
        "probe_r2"
    )
    assert laom.difference(lapo) is None


def test_seeds_with_episodes_of_different_lengths_have_the_median_number_of_labels():
    runs = [run for seed in range(3) for run in probed("laom", {seed: 0.5}, 100 + 10 * seed**2)]
    (laom,) = merged(runs).of_metric("probe_r2")
    assert laom.labeled_transitions == 110


def test_the_best_run_is_the_one_with_the_highest_success_demonstrators_aside():
    uri, row = sweep().best("success")
    assert uri == "/s/runs/lapo-labels_1-seed_1" and row.value == pytest.approx(0.925)


def test_a_study_varies_no_labels_even_where_its_decoders_have_a_share_of_them(study):
    lam = Result.of(Subject(label="lam", method="lam"), "probe_r2", 0.5, 10)
    flow = Result.of(replace(FLOW, label_fraction=0.125), "success", 0.5, 10)
    assert one_run("/r", [lam, flow], {}).label_fractions == study.label_fractions == []
