"""What jobs say at their end: sentences with controls and verdicts, and commands that work."""

import importlib
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rejects import REASONS
from lafp.config import load_config
from lafp.report import training_findings as of_metrics
from lafp.report.headline import view_findings
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.job import Job
from tests.synthetic_views import VIEWS

ROOT = Path(__file__).parents[3]
JOBS = [
    "collect", "draw_masks", "preprocess", "train_lam", "label_latents", "train_policy",
    "train_decoder", "train_bc", "evaluate", "report", "pipeline", "study",
]  # fmt: skip
# The last metrics of configs/pipeline/tiny.yaml's stages, as they were stored.
LAM = {
    "step": 20, "bottleneck_loss": 0.0, "fdm_explained": 0.196, "fdm_loss": 0.804,
    "latent/effective_rank": 3.32, "latent/near_null_share": 0.0, "latent/norm": 2.83,
    "latent/spread": 0.00807, "latent/std": 0.00806, "loss": 0.82, "supervision_loss": 0.155,
    "windows_per_s": 95.0, "step_s": 0.674, "data_wait_share": 0.006, "lr": 0.001,
    "grad_norm": 1.26, "memory/max_rss_bytes": 722284544.0, "mfu": 0.327,
    "decode_cores_needed": 0.0, "val/loss": 0.721, "val/fdm_explained": 0.279,
    "val/latent/spread": 0.00662, "val/latent/effective_rank": 1.5, "probe/r2": 0.287,
    "probe/r2_low": 0.194, "probe/r2_high": 0.383, "probe/mse": 0.116,
    "probe/action_variance": 0.162, "probe/n": 96.0, "probe/num_episodes": 4.0,
    "probe/r2_obs_embedding": 0.423, "probe/r2_random_lam": 0.196, "resumed_from_steps": [],
    "wall_s": 111.8,
}  # fmt: skip
POLICY = {"step": 20, "loss": 1.77, "mfu": 0.095, "val/loss": 1.34, "val/latent_mse": 2.2}
DECODER = {
    "step": 20, "loss": 0.2, "mfu": 0.01, "val/num_transitions": 96.0,
    "val/action_mse_anchored": 0.1, "val/action_r2_anchored": 0.31, "val/action_mse_deployed": 0.2,
    "val/action_r2_deployed": -0.2,
}  # fmt: skip


def job_of(name: str) -> Job:
    return importlib.import_module(f"ray_jobs.{name}").JOB


def said(job: str, summary: dict[str, Any], cfg: Any = None, uri: str = "/runs/mine/stage") -> str:
    return "\n".join(job_of(job).tell(cfg, StageDir(uri, "stage"), summary))


LAPO = SimpleNamespace(objective=SimpleNamespace(name="lapo"), fdm_weight=1.0)
FLOW = SimpleNamespace(policy=SimpleNamespace(name="latent_flow"))


@pytest.mark.parametrize(
    ("job", "cfg", "summary"),
    [("train_lam", LAPO, LAM), ("train_policy", FLOW, POLICY), ("train_decoder", None, DECODER)],
)
def test_a_training_job_says_a_verdict_beside_its_control_and_no_internal_name(job, cfg, summary):
    text = said(job, summary, cfg)
    assert re.search(r"Good|Bad|Uncertain", text)
    for name in summary:
        assert not re.search(rf"\b{re.escape(name)}\b", text) or name in ("loss", "step"), name
    assert "0.00" in text or "1.00" in text or "assuming no change" in text


def test_labels_are_counted_in_transitions_and_dominating_ones_are_named(tmp_path):
    labels = {"labels": "Trained on the actions of 128 labeled transitions (1 episode)."}
    assert said("train_bc", labels | {"val/action_r2_deployed": 0.3}).startswith(labels["labels"])

    def said_of(*shares, errors=(1, 1, 1, 1)):
        records = [
            {"step": step, "supervision_share": share, "supervision_loss": error}
            for step, (share, error) in enumerate(zip(shares, errors, strict=False), 1)
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        last = {"loss": 1.0, "supervision_share": shares[-1]}
        return said("train_lam", last, LAPO, str(tmp_path))

    assert "costs 9 times what the rest of the loss does" in said_of(0.99, 0.9, 0.1)
    assert "33% of its first error is left" in said_of(0.01, 0.01, 0.01, 0.01, errors=(3, 2, 2, 1))
    # The first report of a short training is its last one too, and tells nothing.
    assert "first error" not in said_of(0.01)


def test_the_control_on_labels_alone_is_said_to_be_one():
    cfg = SimpleNamespace(objective=SimpleNamespace(name="laom"), fdm_weight=0.0)
    assert "labels alone" in said("train_lam", {"loss": 0.3, "val/target_spread": 0.9}, cfg)


def test_a_probe_is_judged_by_the_best_of_its_controls():
    probed = LAM | {"probe/num_episodes": 12.0}
    assert said("train_lam", probed, LAPO).count("Bad:") == 1  # the observation alone tells more
    better = probed | {"probe/r2_obs_embedding": 0.1, "probe/r2_random_lam": 0.15}
    assert "Good: a linear probe" in said("train_lam", better, LAPO)
    near = probed | {"probe/r2_obs_embedding": 0.25}
    assert "Uncertain: a linear probe" in said("train_lam", near, LAPO)


def test_a_probe_that_finds_nothing_anywhere_is_told_of_its_episodes():
    metrics = LAM | {"probe/num_episodes": 6.0, "probe/r2": -0.05, "probe/r2_low": -0.25}
    metrics |= {"probe/r2_obs_embedding": -0.08, "probe/r2_random_lam": -0.1}
    assert "does not carry over to the held-out ones" in said("train_lam", metrics, LAPO)


def test_a_probe_that_is_not_good_comes_with_what_the_data_has_to_do_with_it():
    few = said("train_lam", LAM | {"probe/r2_obs_embedding": 0.1}, LAPO)
    assert "Uncertain: a linear probe" in few and "hold out at least 5" in few
    slow = LAM | {"probe/num_episodes": 12.0, "little_motion": "Little moves: ..."}
    assert "Little moves: ..." in said("train_lam", slow, LAPO)
    good = slow | {"probe/r2_obs_embedding": 0.1, "probe/r2_random_lam": 0.15}
    assert "Little moves" not in said("train_lam", good, LAPO)


@pytest.mark.parametrize(("share", "verdict"), [(-0.5, "Bad"), (0.0, "Bad"), (0.4, "Good")])
def test_a_prediction_is_judged_against_assuming_no_change(share, verdict):
    text = said("train_lam", {"val/fdm_explained": share}, LAPO)
    assert text.startswith(f"{verdict}: on held-out")
    assert "assuming no change" in text


def test_constant_latents_are_called_so_with_what_the_data_has_to_do_with_it():
    text = said("train_lam", {"latent/spread": 1e-5, "little_motion": "Little moves: ..."}, LAPO)
    assert "Bad: The latent actions are constant" in text and "Little moves: ..." in text
    assert "idm_input=difference" in text


def test_what_was_not_measured_is_said_to_be_so_and_is_not_zero(tmp_path):
    no_labels = said("train_lam", {"loss": 0.3}, LAPO, str(tmp_path))
    assert "There are no labels" in no_labels
    inputs = {"identity": {}, "inputs": {"labeled_shards": "x"}}
    (tmp_path / "provenance.json").write_text(json.dumps(inputs))
    why = "Not measured: the probe needs two training episodes."
    few_labels = said("train_lam", {"loss": 0.3, "no_probe": why}, LAPO, str(tmp_path))
    assert why in few_labels
    alike = said("train_lam", {"loss": 0.3}, LAPO, str(tmp_path))
    assert "all actions are alike" in alike
    for text in (
        no_labels,
        few_labels,
        alike,
        said("train_policy", {}, FLOW),
        said("train_bc", {}),
    ):
        assert "Not measured" in text
        assert not re.search(r"\b0(\.0+)?\b", text)


AT_LEISURE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.none() | st.floats(-3, 3) | st.sampled_from([math.nan, math.inf, -math.inf])


@AT_LEISURE
@given(st.dictionaries(st.sampled_from(sorted({**LAM, **POLICY, **DECODER})), VALUES))
def test_any_metrics_absent_null_or_not_finite_give_sentences(metrics):
    metrics.pop("resumed_from_steps", None)
    lines = [
        *of_metrics.lam_findings(metrics, "lapo", has_labels=True),
        *of_metrics.policy_findings(metrics, is_flow=True),
        *of_metrics.action_findings(metrics),
        *of_metrics.incident_findings(metrics),
    ]
    for line in lines:
        assert not re.search(r"\b(nan|inf|None)\b", line), line
    text = " ".join(lines)
    if metrics.get("probe/r2_random_lam") is None:
        assert "untrained" not in text
    r2 = metrics.get("val/action_r2_deployed")
    if r2 is None or not math.isfinite(r2):
        assert "Always taking the mean action" not in text


def test_incidents_are_told_in_whole_words():
    metrics = {"resumed_from_steps": [100, 1300], "skipped_steps": 1.0, "damaged_clips": 3.0}
    text = " ".join(of_metrics.incident_findings(metrics))
    assert "resumed 2 times, the last time from step 1,300" in text
    assert "1 step skipped" in text and "3 visits to clips" in text


def preprocessed(**rejects: tuple[int, float]) -> dict[str, Any]:
    left_out = {
        name: {"spans": spans, "seconds": seconds} for name, (spans, seconds) in rejects.items()
    }
    total_s = 60.0 + sum(seconds for _, seconds in rejects.values())
    return {
        "num_videos": 8, "num_videos_with_clips": 1, "num_clips": 1, "num_val_clips": 0,
        "num_shards": 1, "num_bytes": 1_200_000, "assumed": {},
        "files": {"seen": 8, "read": 8, "left_out": []},
        "funnel": {
            "inputs": {"videos": 8, "seconds": total_s},
            "rejects": left_out,
            "clips": {"spans": 1, "seconds": 60.0},
        },
    }  # fmt: skip


def test_preprocess_says_reasons_with_counts_seconds_and_where_the_rejects_are():
    text = said("preprocess", preprocessed(static=(2, 90.0), does_not_decode=(1, 0.0)))
    assert (
        "1 clip (0 held out): 1 min 0 s of 2 min 30 s of video (40 %), from 1 of 8 videos" in text
    )
    assert "2 spans, 1 min 30 s: static (a clip, or a span of clip.max_frozen_s" in text
    assert "1 span, no known length: does not decode" in text
    assert "/runs/mine/stage/rejects.parquet" in text
    assert "Mind: 1 min 30 s (60 %)" in text
    assert "no clip is held out" in text


@AT_LEISURE
@given(st.dictionaries(st.sampled_from(sorted(REASONS)), st.tuples(st.integers(1, 9), VALUES)))
def test_preprocess_tells_few_lines_however_many_reasons_there_are(rejects):
    spans = {
        name: (num, abs(seconds) if seconds is not None and math.isfinite(seconds) else 0.0)
        for name, (num, seconds) in rejects.items()
    }
    lines = said("preprocess", preprocessed(**spans)).splitlines()
    assert len(lines) <= 12
    if len(spans) > 6:
        assert any(f"for {len(spans) - 6} other reason" in line for line in lines)


def test_a_rate_that_was_assumed_is_said_with_the_key_that_sets_it():
    assert "assumed" not in said("preprocess", preprocessed())
    assumed = {"labels.fps": {"value": 5.0, "videos": 12}}
    text = said("preprocess", preprocessed() | {"assumed": assumed})
    assert "the frame rate of 12 videos is not stated; 5 frames per second were assumed" in text
    assert "Set the rate with labels.fps." in text


def test_files_that_were_not_read_are_counted_by_kind():
    kind = {"what": ".json", "why": "no video", "files": 3, "example": "/x/a.json"}
    files = {"seen": 10, "read": 7, "left_out": [kind]}
    text = said("preprocess", preprocessed() | {"files": files})
    assert "3 of 10 files of the source were not read" in text
    assert "3 .json: no video (e.g. /x/a.json)" in text


def test_a_prediction_that_does_without_its_latent_action_is_bad():
    assert "3.00 times as large, so the prediction uses z" in " ".join(view_findings(VIEWS))
    unused = replace(VIEWS, wrong_latent_error=0.1)
    assert "1.00 times as large, so the prediction hardly uses z" in " ".join(view_findings(unused))
    no_pixels = replace(VIEWS, prediction_error=None, wrong_latent_error=None)
    assert len(view_findings(no_pixels)) == 1
    assert "constant" in " ".join(view_findings(replace(VIEWS, is_collapsed=True)))


CONFIGS = {
    "draw_masks": SimpleNamespace(name="videos", source="/data/my videos"),
    "preprocess": PreprocessConfig(name="other"),
    "train_lam": SimpleNamespace(window=SimpleNamespace(frame_stack=3)),
    "label_latents": SimpleNamespace(name="videos"),
    "train_policy": FLOW,
    "train_decoder": SimpleNamespace(name="latent_flow"),
    "train_bc": SimpleNamespace(name="bc"),
    "pipeline": SimpleNamespace(train_decoder=()),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_next_command_of_every_job_is_one_that_its_job_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = RunDir(str(tmp_path / "my runs" / "mine"))
    lines = job_of(name).next_steps(CONFIGS.get(name), run)
    assert lines
    for line in lines:
        if not line.startswith("python"):
            assert str(tmp_path) in line
            continue
        _, _, module, config, *words = shlex.split(line.partition("  #")[0])
        at = words.index("--run-name")
        assert words[at:] == ["--run-name", "mine", "--storage", str(tmp_path / "my runs")]
        job = job_of(module.removeprefix("ray_jobs."))
        load_config(job.schema, config, words[:at])


def test_the_default_storage_is_not_spelled_out(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = next_steps.command("report", "configs/report/default.yaml", RunDir(f"{ROOT}/runs/mine"))
    assert line == "python -m ray_jobs.report configs/report/default.yaml --run-name mine"


def test_a_run_that_has_no_labeled_shards_is_told_to_make_some_first(tmp_path):
    steps = next_steps.train_policy(FLOW, RunDir(str(tmp_path)))
    assert "source=DATASET" in steps[0] and "train_decoder" in steps[1]


def test_a_study_tells_what_it_found_in_every_variant():
    summary = {"num_runs": 2, "num_stages": 11, "findings": ["clean: LAFP succeeds."]}
    lines = findings.study(None, StageDir("/x", ""), summary)
    assert lines == ["2 runs of 11 stages.", "clean: LAFP succeeds."]


def test_a_study_over_labels_tells_its_best_run_and_those_that_were_stopped():
    summary = {
        **{"num_runs": 2, "num_stages": 11, "best": "success 90 %", "best_run": "/x/runs/a"},
        "stopped_early": "b-seed_0",
    }
    _, best, stopped = findings.study(None, StageDir("/x", ""), summary)
    assert best == "Best: success 90 %, in /x/runs/a" and stopped == "Stopped early: b-seed_0"
