"""What the evaluation of a latent action model says, good or bad, against its controls."""

import pytest

from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.results import Result, Subject
from lafp.report.lam_findings import lam_evaluation_findings, lary_findings, skipped_parts
from lafp.report.lam_page import write_lam_page


def rows(values):
    """Rows of (label, metric) -> (value, low, high)."""
    return [
        Result.of(Subject(label=label, method=label), metric, value, 40, low, high)
        for (label, metric), (value, low, high) in values.items()
    ]


GOOD = {
    ("lam", "probe_r2"): (0.8, 0.75, 0.85),
    ("embedding", "probe_r2"): (0.3, 0.2, 0.4),
    ("random_lam", "probe_r2"): (0.4, 0.3, 0.5),
    ("pixel_difference", "probe_r2"): (0.5, 0.4, 0.6),
    ("lam", "probe_gain_over_embedding"): (0.5, 0.4, 0.6),
    ("lam", "probe_gain_over_random_lam"): (0.4, 0.3, 0.5),
    ("lam", "probe_gain_over_pixel_difference"): (0.3, 0.2, 0.4),
    ("lam", "probe_r2_noise"): (0.5, 0.45, 0.55),
    ("pixel_difference", "probe_r2_noise"): (0.1, 0.05, 0.15),
    ("lam", "probe_r2_seen"): (0.8, 0.7, 0.9),
    ("lam", "probe_r2_unseen"): (0.75, 0.65, 0.85),
    ("lam", "additivity_error"): (0.1, 0.05, 0.15),
    ("random_lam", "additivity_error"): (0.9, 0.8, 1.0),
    ("lam", "reversal_error"): (0.2, 0.1, 0.3),
    ("random_lam", "reversal_error"): (0.9, 0.8, 1.0),
    ("lam", "s_pcfc"): (0.9, 0.8, 1.0),  # of a shared constant, which is no fault
    ("lam", "s_pcfc_centered"): (-0.6, -0.7, -0.5),
    ("lam", "codebook_usage"): (0.9, None, None),
    ("lam", "codebook_perplexity"): (12.0, None, None),
    ("lam", "transfer_error"): (0.3, 0.2, 0.4),
    ("lam", "transfer_error_own"): (0.1, 0.05, 0.15),
}
BAD = {
    **GOOD,
    ("lam", "probe_r2"): (0.45, 0.4, 0.5),
    ("lam", "probe_gain_over_pixel_difference"): (-0.05, -0.1, 0.0),
    ("lam", "probe_r2_noise"): (0.05, 0.0, 0.1),
    ("lam", "probe_r2_unseen"): (0.2, 0.1, 0.3),
    ("lam", "additivity_error"): (1.2, 1.1, 1.3),
    ("lam", "reversal_error"): (2.2, 2.1, 2.3),
    ("lam", "s_pcfc_centered"): (0.97, 0.96, 0.98),
    ("lam", "transfer_error"): (1.5, 1.2, 1.8),
}
SKIPPED = {"transfer": "Not measured: a thing."}


@pytest.mark.parametrize(("values", "verdict"), [(GOOD, "Good"), (BAD, "Bad")])
def test_each_sentence_has_its_verdict_and_the_last_says_what_to_do(values, verdict):
    lines = lam_evaluation_findings(one_run("runs/x", rows(values), {}), SKIPPED, 8)
    verdicts = [line.partition(":")[0] for line in lines]
    num = 8 if verdict == "Good" else 7  # a codebook that is in use stays good
    assert verdicts.count(verdict) == num, lines
    assert "Not measured: a thing." in lines
    assert lines[-1].startswith("Next: train a policy" if verdict == "Good" else "Next: no policy")


@pytest.mark.parametrize("values", [GOOD, BAD])
def test_few_held_out_episodes_settle_nothing(values):
    lines = lam_evaluation_findings(one_run("runs/x", rows(values), {}), SKIPPED, 4)
    assert "of 4 held-out episodes" in lines[0] and lines[-1].startswith("Next: measure it on more")
    assert {line.partition(":")[0] for line in lines} <= {"Uncertain", "Not measured", "Next"}


def test_z_that_no_background_disturbs_but_none_was_swapped_is_said_to_be_so():
    text = " ".join(lam_evaluation_findings(one_run("runs/x", rows(GOOD), {}), {}, 8))
    assert "before unseen backgrounds the probe of z has R² 0.750 [0.650, 0.850]" in text
    assert "swapped_shards=FOLDER" in text


@pytest.mark.parametrize(
    ("of_background", "verdict"),
    [((0.2, 0.1, 0.3), "Good"), ((0.9, 0.8, 1.0), "Bad"), ((0.5, 0.3, 0.7), "Uncertain")],
)
def test_z_is_judged_by_what_of_it_follows_the_background_and_what_the_action(
    of_background, verdict, tmp_path
):
    swapped = {
        ("lam", "background_share"): of_background,
        ("lam", "action_share"): (0.6, 0.5, 0.7),
        ("pixel_difference", "background_share"): (0.8, 0.7, 0.9),
        ("pixel_difference", "action_share"): (0.1, 0.0, 0.2),
    }
    results = one_run("runs/x", rows(GOOD | swapped), {})
    lines = lam_evaluation_findings(results, {}, 8)
    (line,) = [line for line in lines if "comes from the background" in line]
    assert line.startswith(f"{verdict}: of the variance of z, a share of {of_background[0]:.3f}")
    assert "of the pixels: 0.800" in line and "the true action tells 0.600" in line
    write_lam_page(str(tmp_path), "x", results, lines, "lam", "shards")
    assert "What changes with the background?" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("of_z", "verdict"),
    [((0.7, 0.65, 0.75), "Good"), ((0.3, 0.25, 0.35), "Bad"), ((0.55, 0.5, 0.6), "Uncertain")],
)
def test_classes_of_clips_are_judged_against_the_best_control(of_z, verdict, tmp_path):
    accuracies = {
        ("lam", "lary_accuracy"): of_z,
        ("random_lam", "lary_accuracy"): (0.2, 0.15, 0.25),
        ("nothing", "lary_accuracy"): (0.5, 0.45, 0.55),
    }
    results = one_run("runs/x", rows(GOOD | accuracies), {})
    (line,) = lary_findings(results)
    assert line.startswith(f"{verdict}: ") and f"{100 * of_z[0]:.0f} % [" in line
    assert line.endswith("of 40 clips; the best control (the most frequent class) 50 % [45, 55].")
    write_lam_page(str(tmp_path), "x", results, [line], "lam", "shards")
    page = (tmp_path / "report.html").read_text()
    assert "Which action does a clip show?" in page and "20 % [15, 25]" in page
    assert "the most frequent class" in page
    assert lary_findings(one_run("runs/x", rows(GOOD), {})) == []


def test_what_the_shards_do_not_hold_is_said_to_be_missing():
    kept = {key: v for key, v in GOOD.items() if not key[1].startswith(("probe_r2_", "transfer"))}
    text = " ".join(lam_evaluation_findings(one_run("runs/x", rows(kept), {}), {}, 8))
    assert "The shards do not tell it" in text and "in a folder `unseen`" in text
    parts = skipped_parts(False, "laom", None)
    assert "laom predicts embeddings" in parts["transfer"] and "dinov2=FOLDER" in parts["dinov2"]
    assert skipped_parts(True, "lapo", "/weights") == {}


ENCODER = {
    ("encoder_pair", "probe_r2"): (0.7, 0.65, 0.75),
    ("encoder_difference", "probe_r2"): (0.6, 0.55, 0.65),
    ("encoder_frame", "probe_r2"): (0.4, 0.3, 0.5),
    ("pixel_difference", "probe_r2"): (0.5, 0.4, 0.6),
    ("encoder_pair", "probe_gain_over_encoder_frame"): (0.3, 0.2, 0.4),
    ("encoder_pair", "probe_gain_over_pixel_difference"): (0.2, 0.1, 0.3),
    ("encoder_pair", "probe_r2_noise"): (0.5, 0.45, 0.55),
    ("encoder_difference", "probe_r2_noise"): (0.6, 0.55, 0.65),
    ("encoder_frame", "probe_r2_noise"): (0.1, 0.05, 0.15),
    ("encoder_pair", "lary_mse"): (0.25, 0.2, 0.3),
    ("pixel_difference", "lary_mse"): (0.65, 0.6, 0.7),
    **{
        (method, f"probe_r2_at_{num}"): (num / 1000, None, None)
        for method in ("encoder_pair", "encoder_difference", "encoder_frame", "pixel_difference")
        for num in (100, 400)
    },
}


def test_an_encoder_is_judged_by_the_features_of_both_frames_against_its_own_controls(tmp_path):
    results = one_run("runs/x", rows(ENCODER), {})
    lines = lam_evaluation_findings(results, {}, 8)
    text = " ".join(lines)
    assert lines[0].startswith("Good: a linear probe reads the true actions of 8 held-out episodes")
    assert "R² 0.70 [0.65, 0.75], against 0.40 from the features of the first frame alone" in text
    # The difference is no control: it may hold more than the pair of features, for a ridge.
    assert "Good: of the exploration noise" in text and "first frame" in text
    assert lines[-1].startswith("Next: evaluate latent action models on the same shards")
    write_lam_page(str(tmp_path), "x", results, lines, "/models/dinov2", "shards")
    page = (tmp_path / "report.html").read_text()
    assert "Do the frozen features hold the true actions?" in page
    assert "Control: features of the first frame" in page and "frozen encoder at" in page
    assert "Do latent actions add up" not in page
    assert "LARY's regression" in page or "LARY&#39;s regression" in page
    assert "0.250 [0.200, 0.300]" in page and "0.650 [0.600, 0.700]" in page
