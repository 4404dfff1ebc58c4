"""The sentences at the top of a page: numbers beside their controls, and warnings."""

from dataclasses import replace

import numpy as np
import pytest

from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.results import Result, Subject
from lafp.report.headline import (
    evaluation_findings,
    headline,
    headline_of_latents,
    sentence,
    warnings,
)
from tests.synthetic_views import VIEWS

LAFP = Result(
    label="lafp",
    method="latent_flow",
    anchor_low=0.0,
    anchor_high=1.0,
    noise="fresh",
    metric="success",
    value=0.78,
    low=0.73,
    high=0.83,
    n=300,
)
RAW = replace(LAFP, label="raw", anchor_low=1.0, anchor_high=1.0, value=0.80, low=0.75, high=0.85)
NAIVE = replace(
    LAFP, label="naive", anchor_low=0.0, anchor_high=0.0, value=0.31, low=0.26, high=0.36
)
HEAD = replace(
    LAFP, label="head", method="latent_flow_idm_head", anchor_low=None, anchor_high=None, value=0.7
)
CLONING = replace(NAIVE, label="bc", method="latent_bc", noise=None, value=0.02, low=0, high=0.05)
PROBE = Result.of(Subject(label="lam", method="lam"), "probe_r2", 0.9, 690, low=0.88, high=0.92)


def one(*rows):
    """A run of 300 episodes, of which each method succeeds in the first ones."""
    of = {row.label: round(300 * row.value) for row in rows if row.metric == "success"}
    outcomes = {label: (np.arange(300) < num).astype(float) for label, num in of.items()}
    return one_run("/r", rows, outcomes)


def said(*rows):
    return [line.replace("\xa0", " ") for line in headline(one(*rows), None)]


def test_it_quotes_lafp_and_every_method_that_settles_what_it_is_worth():
    first, cloning, naive, raw, head = said(CLONING, HEAD, NAIVE, LAFP, RAW)
    assert first == "LAFP (τₐ in [0, 1]), fresh noise succeeds in 78 % [73, 83] over 300 episodes"
    assert cloning.startswith("+76 points [") and "over Latent BC (2 % [0, 5]): it does" in cloning
    assert naive.startswith("+47 points [") and "no interpolation (τₐ = 0), fresh noise" in naive
    assert head.startswith("+8 points [") and "Flow, the LAM's action head, fresh noise" in head
    assert raw.startswith("-2 points [") and "decoder on IDM latents (τₐ = 1)" in raw


@pytest.mark.parametrize(
    ("num_raw", "verdict"), [(150, "does better"), (236, "do not tell"), (290, "does worse")]
)
def test_methods_are_compared_episode_by_episode(num_raw, verdict):
    _, raw = said(LAFP, replace(RAW, value=num_raw / 300))
    assert verdict in raw
    assert f"{(234 - num_raw) / 3:+.0f} points" in raw


def test_it_says_when_a_successful_clone_always_goes_the_same_way():
    clone = replace(CLONING, value=1.0, low=0.99, high=1.0)
    coverage = replace(clone, metric="mode_coverage", value=0.09, low=None, high=None)
    undefined = replace(coverage, label="lafp", value=float("nan"))
    text = sentence(said(LAFP, clone, coverage, undefined))
    assert "over Latent BC (100 % [99, 100], mode coverage 0.09)" in text
    assert text.count("mode coverage") == 1


def test_cloning_is_judged_as_it_acts_and_never_weakened():
    likeliest = replace(LAFP, sample_actions=False)
    clone = replace(CLONING, sample_actions=False, value=0.5)
    sampled = replace(clone, label="bc_sampled", sample_actions=True, value=0.8)
    _, alike, best = said(likeliest, clone, sampled)
    assert "over Latent BC (" in alike and alike.endswith("it does better")
    assert "over Latent BC, sampled actions" in best
    worse = replace(sampled, value=0.4)
    assert len(said(likeliest, clone, worse)) == 2


def test_it_is_left_out_without_interpolation_or_rollouts():
    assert said() == said(CLONING) == []


def test_methods_are_compared_within_one_noise_mode():
    other = replace(NAIVE, label="naive_persistent", noise="persistent", value=0.6)
    assert len(said(LAFP, other)) == 1


def test_without_interpolation_the_best_method_is_set_against_cloning():
    mine = replace(CLONING, label="mine", method="mine", value=0.9, low=0.88, high=0.92)
    lines = evaluation_findings(one(CLONING, mine), VIEWS)
    assert lines[1:3] == ["  90 % [88, 92]  mine", "  2 % [0, 5]  Latent BC"]
    assert lines[3].startswith("mine: +88 points [") and lines[3].endswith("it does better")
    alone = evaluation_findings(one(CLONING), VIEWS)
    assert any(line.startswith("Not measured: a baseline") for line in alone)


def test_a_run_without_rollouts_is_told_by_its_probe_and_its_predictions():
    control = Result.of(Subject(label="embedding", method="embedding"), "probe_r2", 0.4, 690)
    probe, _, prediction = headline_of_latents(one(PROBE, control), VIEWS, {})
    assert "R² 0.90 [0.88, 0.92], against 0.40 from the observation alone" in probe
    assert prediction.replace("\xa0", " ").startswith(
        "Good: the next frame of these clips is predicted with 75 % less"
    )


def test_a_probe_on_few_held_out_episodes_is_not_judged():
    control = Result.of(Subject(label="embedding", method="embedding"), "probe_r2", 0.95, 690)
    lam = {"probe/num_episodes": 2.0, "few_episodes": "Few episodes: ..."}
    probe, *_ = headline_of_latents(one(PROBE, control), VIEWS, lam)
    assert probe.startswith("Uncertain: ") and "of 2 held-out episodes" in probe
    (note,) = warnings(one(PROBE, control), VIEWS, lam)
    assert note.text == "Few episodes: ..."


def test_a_collapsed_lam_is_called_so():
    (note,) = warnings(one(), replace(VIEWS, is_collapsed=True), {})
    assert note.level == "warning"
    assert "constant" in note.text


def test_a_codebook_of_one_code_is_a_warning():
    dead = replace(VIEWS, codebook={"usage": 0.05, "perplexity": 1.02})
    (note,) = warnings(one(), dead, {})
    assert "codebook is dead" in note.text
    assert not warnings(one(), replace(VIEWS, codebook={"usage": 0.5, "perplexity": 20.0}), {})


def test_why_there_is_no_probe_and_that_little_moves_is_said_at_the_top():
    remarks = {"no_probe": "Not measured: ...", "little_motion": "Little moves: ...", "loss": 1.0}
    notes = warnings(one(), VIEWS, remarks)
    assert [note.text for note in notes] == ["Little moves: ...", "Not measured: ..."]


@pytest.mark.parametrize(("embedding", "is_warned"), [(0.4, False), (0.89, True), (0.95, True)])
def test_a_probe_not_above_the_embeddings_is_a_warning(embedding, is_warned):
    control = Result.of(Subject(label="embedding", method="embedding"), "probe_r2", embedding, 690)
    assert bool(warnings(one(PROBE, control), VIEWS, {})) == is_warned


@pytest.mark.parametrize(("low", "is_warned"), [(0.01, False), (-0.01, True)])
def test_the_paired_gain_over_the_embedding_decides_where_it_is_known(low, is_warned):
    control = Subject(label="embedding", method="embedding")
    rows = [
        PROBE,
        Result.of(control, "probe_r2", 0.86, 690, low=0.80, high=0.92),  # the intervals overlap
        replace(PROBE, metric="probe_gain_over_embedding", value=0.04, low=low, high=0.07),
    ]
    assert bool(warnings(one(*rows), VIEWS, {})) == is_warned
