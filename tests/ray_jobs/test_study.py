"""Studies: which runs they make, what the runs share, and what happens when one fails."""

from pathlib import Path

import pandas as pd
import pytest
import ray

from lafp.config import ConfigError, load_config
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs import pipeline, study
from ray_jobs.core.job import JobError, execute, state_of
from ray_jobs.studies.stage_graph import share_stages
from ray_jobs.studies.study_config import StudyConfig, cells
from tests.synthetic_shards import write_shard_set

CONFIGS = Path(__file__).parents[2] / "configs"


def load(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_config(StudyConfig, path)


def two_fractions(tmp_path, seeds="[0]"):
    return load(
        tmp_path,
        f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        axes:
          - values:
              - {{label: all}}
              - {{label: half, overrides: ["train_decoder.*.label_fraction=0.5"]}}
        seeds: {seeds}
        """,
    )


def test_every_value_meets_every_seed(tmp_path):
    runs = cells(two_fractions(tmp_path, "[3, 5]"))
    assert [run.name for run in runs] == ["all-seed_3", "half-seed_3", "all-seed_5", "half-seed_5"]
    fractions = [{d.label_fraction for d in run.pipeline.train_decoder} for run in runs]
    assert fractions == [{1.0}, {0.5}, {1.0}, {0.5}]


def test_a_seed_reaches_every_stage(tmp_path):
    (run, _) = cells(two_fractions(tmp_path, "[7]"))
    config = run.pipeline
    assert config.collect.seed == config.train_lam.train.seed == config.evaluate.seed == 7
    assert {stage.train.seed for stage in (*config.train_policy, *config.train_decoder)} == {7}


def test_runs_share_what_is_alike_and_nothing_else(tmp_path):
    graph = study.graph_of(two_fractions(tmp_path))
    all_labels, half = graph.runs["all-seed_0"], graph.runs["half-seed_0"]
    shared = {stage for stage in all_labels if all_labels[stage] == half[stage]}
    assert shared == {
        "demonstrations",
        "shards/videos",
        "shards/labeled",
        "lam",
        "policy/latent_flow",
        "policy/latent_bc",
        "policy/bc",
    }


LABELS_OF_BOTH = f"""
    name: toy
    pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
    axes:
      - values:
          - {{label: supervised, overrides: [train_lam.supervision.weight=0.1]}}
          - {{label: not, overrides: [train_lam.supervision.weight=0]}}
    labels: {{fractions: [0.5, 1], scope: both}}
    seeds: [0]
    """


def test_a_lam_without_labels_is_trained_once_for_all_shares_of_them(tmp_path):
    runs = study.graph_of(load(tmp_path, LABELS_OF_BOTH)).runs
    half, whole = runs["not-labels_0.5-seed_0"], runs["not-labels_1-seed_0"]
    assert half["lam"] == whole["lam"] and half["policy/bc"] != whole["policy/bc"]
    supervised = {runs[f"supervised-labels_{share}-seed_0"]["lam"] for share in ("0.5", "1")}
    assert len(supervised | {half["lam"]}) == 3


def test_another_seed_shares_nothing(tmp_path):
    graph = study.graph_of(two_fractions(tmp_path, "[0, 1]"))
    assert not set(graph.runs["all-seed_0"].values()) & set(graph.runs["all-seed_1"].values())


def test_more_training_steps_are_another_stage_for_all_that_read_it(tmp_path):
    (short, _) = cells(two_fractions(tmp_path))
    long = load_config(
        StudyConfig, tmp_path / "study.yaml", ["pipeline.train_policy.0.train.num_steps=21"]
    )
    before = share_stages({"run": list(pipeline.steps(short.pipeline))}).runs["run"]
    after = share_stages({"run": list(pipeline.steps(cells(long)[0].pipeline))}).runs["run"]
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed == {
        "policy/latent_flow",
        "decoder/latent_flow",
        "evaluation",
        "report",
    }


@pytest.mark.parametrize(
    "change",
    [
        "pipeline.train_lam.train.tracker.name=tensorboard",
        "pipeline.train_lam.train.ingest.cache_bytes=1",
        "pipeline.preprocess.tasks.node_labels=[role=decode]",
        "max_concurrent=2",
    ],
)
def test_how_the_work_is_done_is_no_other_stage_for_anybody(tmp_path, change):
    before = study.graph_of(two_fractions(tmp_path))
    after = study.graph_of(load_config(StudyConfig, tmp_path / "study.yaml", [change]))
    assert after.runs == before.runs


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            "axes: [{values: [{label: x}, {label: x-y}]}, {values: [{label: y-z}, {label: z}]}]",
            "called x-y-z-seed_0, those of the values x, y-z and x-y, z",
        ),
        (
            "labels: {fractions: [0.1234567, 0.12345674]}",
            "called labels_0.123457-seed_0, those of the values 0.1234567 and 0.12345674",
        ),
    ],
)
def test_two_runs_with_one_name_are_refused(tmp_path, axes, message):
    text = f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        {axes}
        seeds: [0]
        """
    with pytest.raises(ConfigError, match=message):
        cells(load(tmp_path, text))


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("[]", {"a-x", "a-y", "b-x", "b-y", "c-x", "c-y"}),
        ("[a, c]", {"a-x", "a-y", "c-x", "c-y"}),
        ("[y]", {"a-y", "b-y", "c-y"}),
        ("[a, y]", {"a-y"}),
    ],
)
def test_a_part_of_a_study_is_run_by_the_labels_of_its_values(tmp_path, only, names):
    text = f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        axes:
          - {{values: [{{label: a}}, {{label: b}}, {{label: c}}]}}
          - {{values: [{{label: x}}, {{label: y}}]}}
        only: {only}
        seeds: [0, 1]
        """
    found = {cell.name for cell in cells(load(tmp_path, text))}
    assert found == {f"{name}-seed_{seed}" for name in names for seed in (0, 1)}


def test_a_run_knows_its_value_on_each_axis_though_its_name_alone_does_not_tell(tmp_path):
    text = f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        axes:
          - {{values: [{{label: la-po}}, {{label: laom}}]}}
          - {{values: [{{label: x-y}}]}}
        seeds: [0]
        """
    runs = cells(load(tmp_path, text))
    assert {run.variant: run.values for run in runs} == {
        "la-po-x-y": ("la-po", "x-y"),
        "laom-x-y": ("laom", "x-y"),
    }


def test_a_part_of_a_study_names_labels_that_it_has(tmp_path):
    text = f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        axes: [{{values: [{{label: lapo}}]}}]
        only: [lapa]
        seeds: [0]
        """
    with pytest.raises(ConfigError, match=r"only names .*lapa.* no axis has: .*lapo"):
        load(tmp_path, text)


LATENTS = [
    "pipeline.label_latents={name: videos}",
    "pipeline.train_policy.*.latents=videos",
    'axes.0.values.1.overrides=["train_lam.train.num_steps=21"]',
]


def test_stored_latents_belong_to_one_lam_and_so_do_policies_that_read_them(tmp_path):
    two_fractions(tmp_path)
    graph = study.graph_of(load_config(StudyConfig, tmp_path / "study.yaml", LATENTS))
    of_one, of_other = graph.runs["all-seed_0"], graph.runs["half-seed_0"]
    for keys in (of_one, of_other):
        assert keys["lam"] in graph.nodes[keys["latents/videos"]].reads
        assert keys["latents/videos"] in graph.nodes[keys["policy/latent_flow"]].reads
    shared = {stage for stage in of_one if of_one[stage] == of_other[stage]}
    assert shared == {"demonstrations", "shards/videos", "shards/labeled", "policy/bc"}


class NotingRunDir(RunDir):
    """Notes which stages somebody asks for."""

    def stage(self, name: str) -> StageDir:
        vars(self).setdefault("asked_for", set()).add(name)
        return super().stage(name)


def test_every_job_says_which_stages_its_inputs_use(tmp_path):
    two_fractions(tmp_path)
    cfg = load_config(StudyConfig, tmp_path / "study.yaml", LATENTS)
    asked_for = {}
    for job, config in pipeline.steps(cells(cfg)[0].pipeline):
        if not job.is_remade:
            run = NotingRunDir(str(tmp_path / "run"))
            inputs = job.inputs(config, run)
            asked_for[job.stage(config)] = vars(run).get("asked_for", set())
            assert asked_for[job.stage(config)] <= set(job.reads(config)), job.name
            stage = run.stage(job.stage(config))
            stage.begin(config, inputs)
            stage.finish({})
    assert asked_for["policy/latent_flow"] >= {"lam", "latents/videos"}


def finish(graph, run, *names):
    """Has these stages complete, as far as their records say it."""
    for node in graph.nodes.values():
        if node.name in names:
            place = graph.run_dir(run, node.run)
            stage = place.stage(node.name)
            stage.begin(node.config, node.job.inputs(node.config, place))
            stage.finish({})


def test_a_plan_says_which_stages_it_found_with_another_number_of_workers(tmp_path):
    cfg, run = two_fractions(tmp_path), RunDir(str(tmp_path / "toy"))
    finish(study.graph_of(cfg), run, "demonstrations")
    changed = ["pipeline.train_lam.train.tracker.name=tensorboard"]
    text = "\n".join(study.plan(load_config(StudyConfig, tmp_path / "study.yaml", changed), run))
    assert "1 stages complete, 0 to go on" in text
    assert "  demonstrations: complete for all-seed_0" in text
    assert not (tmp_path / "toy" / "runs").exists(), "a plan writes nothing"


def test_a_study_is_complete_when_its_stages_are(tmp_path):
    cfg, run = two_fractions(tmp_path), RunDir(str(tmp_path / "toy"))
    run.stage("").begin(cfg, {})
    run.stage("").finish({})
    assert state_of(study.JOB, cfg, run) == "partial", "somebody deleted its stages"


def test_an_override_that_fits_no_pipeline_names_its_value(tmp_path):
    text = f"""
        name: toy
        pipeline: {{extends: {CONFIGS}/pipeline/tiny.yaml}}
        axes: [{{values: [{{label: wrong, overrides: [train_lam.train.lrr=1]}}]}}]
        seeds: [0]
        """
    with pytest.raises(ConfigError, match=r"value wrong: .*lrr"):
        cells(load(tmp_path, text))


@pytest.fixture
def ray_of_the_job():
    """What the job starts, this test ends."""
    yield
    ray.shutdown()


@pytest.mark.usefixtures("ray_of_the_job")
def test_a_failed_run_is_reported_and_the_others_are_not_lost(tmp_path):
    """Real stages on real Ray: one of two LAMs diverges."""
    videos = write_shard_set(tmp_path / "videos", num_clips=8)
    labeled = write_shard_set(
        tmp_path / "labeled", num_clips=16, num_val_clips=6, has_labels=True, seed=1
    )
    text = f"""
        name: toy
        pipeline:
          extends: {CONFIGS}/pipeline/tiny.yaml
          collect: null
          preprocess: null
          preprocess_labeled: null
          train_lam:
            shards: {videos}
            labeled_shards: {labeled}
            supervision: {{weight: 0}}
            train: {{num_steps: 4, num_workers: 1, ingest: {{mode: direct}}}}
          train_policy: []
          train_decoder: []
          train_bc: []
          evaluate: {{env: null, methods: []}}
        axes:
          - values:
              - {{label: steady}}
              - {{label: diverging, overrides: [train_lam.train.optim.lr=1e30]}}
        seeds: [0]
        max_concurrent: 2
        """
    cfg, run = load(tmp_path, text), RunDir(str(tmp_path / "runs" / "toy"))
    with pytest.raises(JobError, match=r"diverging-seed_0: lam: .*not finite") as error:
        execute(study.JOB, cfg, run)
    assert "1 of 2 runs" in str(error.value)
    results = pd.read_parquet(run.stage("results.parquet").uri)
    assert set(results.variant) == {"steady"}
    html = RunDir(f"{run.uri}/runs/steady-seed_0").stage("report.html").uri
    assert Path(html).is_file()
