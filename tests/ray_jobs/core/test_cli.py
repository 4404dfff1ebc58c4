"""What a user sees on the command line, through real processes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lafp.config import ConfigError, load_config, section_of
from lafp.config.source import Section, read_section
from lafp.runs.run_dir import RunDir
from ray_jobs import pipeline, study
from ray_jobs.core.job import execute
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.study_config import StudyConfig
from tests.synthetic_shards import write_shard_set
from tests.warm_process import warm_process

ROOT = Path(__file__).parents[3]
JOBS = sorted(
    path.stem
    for path in (ROOT / "ray_jobs").glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
DEMO = "configs/pipeline/slalom.yaml"
VIDEOS = "configs/pipeline/videos.yaml"
WITHOUT_CONFIG = ("compare", "doctor", "push", "serve", "to_lerobot", "view")


RUN = """
import runpy, sys
job = sys.argv.pop(1)
runpy.run_module(f"ray_jobs.{job}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def run_job(tmp_path_factory):
    """Runs a job in a process of its own, in which what all jobs import is imported already."""
    imports = "import boto3, ray_jobs.pipeline, ray_jobs.studies.engine\n"
    with warm_process(imports, tmp_path_factory.mktemp("said"), cwd=ROOT) as process:

        def run(job: str, *args: str, **env: str) -> subprocess.CompletedProcess:
            return process.run(RUN, job, *args, env=os.environ | env)

        yield run


def test_every_job_of_the_readme_exists():
    expected = {"collect", "preprocess", "train_lam", "train_policy", "train_decoder", "train_bc"}
    expected |= {"evaluate", "evaluate_lam", "report", "pipeline", "study", "doctor"}
    assert expected <= set(JOBS)


@pytest.mark.parametrize("job", [job for job in JOBS if job not in WITHOUT_CONFIG])
def test_help_lists_the_config_keys_with_docs_and_defaults(run_job, job):
    result = run_job(job, "--help")
    assert result.returncode == 0, result.stderr
    assert "config keys:" in result.stdout
    assert "--dry-run" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no/such.yaml"], "No config file at no/such.yaml"),
        ([DEMO, "train_lam.train.lrr=1"], "Key 'train_lam.train.lrr' is not in TrainConfig"),
        ([DEMO, "train_lam.train.optim.lr=-1"], "train_lam.train.optim: lr must be positive"),
        ([DEMO, "seed"], "has no '='"),
        ([DEMO, "--run-name=--"], "--run-name: expected one argument"),
        (
            [VIDEOS, "preprocess.source=/no/such/dir"],
            "preprocess.source: No such file or folder: /no",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_command_ends_with_one_clear_line_and_code_2(run_job, args, message, tmp_path):
    result = run_job("pipeline", *args, "--storage", str(tmp_path))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "starting" not in result.stdout, "the cluster was started for nothing"


HEAVY = (
    *("torch", "ray", "pandas", "deepspeed", "pyarrow", "av", "boto3", "omegaconf", "scipy"),
    *("sympy", "torch._dynamo", "matplotlib"),
)
LIGHT = """
import runpy, sys
sys.argv = ["job", *sys.argv[2:]]
try:
    runpy.run_module(f"ray_jobs.{job}", run_name="__main__")
finally:
    sys.stderr.write(" ".join(sys.modules))
"""
MAX_HELP_MODULES = 350
"""Most modules that ``--help`` may import, those of Python included: 280, and 315 of `serve`."""


def loaded_by(job: str, *args: str) -> tuple[int, str, set[str]]:
    """Exit code, what was said, and the heavy modules that were imported for it."""
    code, said, loaded = modules_of(job, *args)
    return code, said, loaded & set(HEAVY)


def modules_of(job: str, *args: str) -> tuple[int, str, set[str]]:
    """Exit code, what was said, and all modules that were imported for it."""
    code = f"job = {job!r}{LIGHT}"
    result = subprocess.run(
        [sys.executable, "-c", code, job, *args], cwd=ROOT, capture_output=True, text=True
    )
    said, _, loaded = result.stderr.rpartition("\n")
    return result.returncode, said, set(loaded.split())


@pytest.mark.parametrize("job", JOBS)
def test_help_loads_nothing_that_takes_long(job):
    code, said, loaded = modules_of(job, "--help")
    assert (code, loaded & (set(HEAVY) - {"omegaconf"})) == (0, set()), said
    assert len(loaded) <= MAX_HELP_MODULES, sorted(loaded)


@pytest.mark.parametrize(
    ("job", "config", "loaded"),
    [
        ("train_lam", "train_lam/lapo_debug.yaml", {"torch", "pyarrow", "av"}),
        # Models of every kind of policy are built, without data.
        ("pipeline", "pipeline/slalom.yaml", {"torch", "pyarrow", "av", "pandas"}),
    ],
)
def test_a_dry_run_starts_no_ray_and_loads_what_it_needs(tmp_path, job, config, loaded):
    shards = [f"shards={write_shard_set(tmp_path / 'shards', num_clips=4)}"]
    args = (*(shards if job == "train_lam" else []), "--dry-run", "--storage", str(tmp_path / "x"))
    code, said, found = loaded_by(job, f"{ROOT}/configs/{config}", *args)
    assert (code, found) == (0, loaded | {"omegaconf"}), said


@pytest.mark.parametrize(
    ("job", "args", "message"),
    [
        ("train_lam", ["no/such.yaml"], "No config file"),
        ("train_lam", ["configs/train_lam/lapo.yaml", "train.lrr=1"], "Key 'train.lrr' is not in"),
        ("train_policy", ["configs/train_policy/latent_flow.yaml", "policy.name=x"], "Unknown pol"),
        ("pipeline", [VIDEOS, "preprocess.source=/no/such/dir"], "preprocess.source: No such file"),
        ("study", ["configs/studies/tiny.yaml", "pipeline.evaluate.envv=1"], "Did you mean: 'env'"),
        ("study", ["configs/studies/demo.yaml", "seeds"], "has no '='"),
        ("train_lam", ["configs/train_lam/lapo.yaml", "--run-name", "../evil"], "--run-name is"),
        ("train_lam", ["configs/train_lam/lapo.yaml", "--storage", "ftp://b/x"], "--storage 'ftp:"),
        ("train_lam", ["configs/train_lam/lapo.yaml", "--storage", "s3:/b/x"], "--storage 's3:/"),
        ("train_lam", ["configs/train_lam/lapo.yaml", "--storage", ""], "--storage '' is neither"),
        ("doctor", ["--storag=x", "--no-such"], "unrecognized arguments: --no-such"),
        ("doctor", ["--storage", "ftp://b/x"], "--storage 'ftp:"),
        ("compare", ["docs", "tests", "--out", "ftp://b/x"], "--out 'ftp:"),
        ("view", ["docs", "--rrd", "ftp://b/x"], "--rrd 'ftp:"),
        ("to_lerobot", ["docs", "ftp://b/x"], "OUT 'ftp:"),
        ("serve", ["no/such/run"], "No run folder at 'no/such/run'"),
        ("serve", ["README.md"], "No run folder at 'README.md'"),
        ("push", ["no/such/run", "hf://user/name"], "No run folder at 'no/such/run'"),
        (
            "push",
            ["no/such", "hf://datasets/user/name"],
            "No shard set at 'no/such'. Give the path",
        ),
        ("train_lam", ["configs/train_lam"], "is a folder, where a config file is expected"),
        ("takedown", ["output=x", "video_ur=y"], "Did you mean: 'video_uri'"),
        ("takedown", ["output=x"], "name the video"),
        ("takedown", ["video_id=1"], "Key 'output' is missing"),
        ("takedown", ["output=x", "video_id"], "has no '='"),
        ("takedown", ["output=ftp://b/x", "video_id=1"], "'ftp://b/x' is neither"),
    ],
)
def test_a_slip_of_the_pen_is_answered_before_anything_heavy_is_loaded(job, args, message):
    code, said, loaded = loaded_by(job, *args)
    assert code == 2 and message in said
    assert loaded - {"omegaconf"} == set()


@pytest.mark.parametrize("job", [job for job in JOBS if job not in (*WITHOUT_CONFIG, "takedown")])
def test_what_is_read_from_source_is_what_the_classes_say(job):
    module = importlib.import_module(f"ray_jobs.{job}")
    seen = set()

    def compare(read: Section, real: Section, where: str) -> None:
        assert read.name == real.name and list(read.keys) == list(real.keys), where
        for name, key in read.keys.items():
            other, at = real.keys[name], f"{where}.{name}"
            assert (key.is_required, key.is_list) == (other.is_required, other.is_list), at
            assert bool(key.section) == bool(other.section), at
            assert bool(key.choices) == bool(other.choices), at
            if key.section and other.section:
                compare(key.section, other.section, at)
            if key.choices and other.choices:
                assert key.choices.kind == other.choices.kind, at
                assert key.choices.names() == other.choices.names(), at
                for choice in key.choices.names():
                    if (key.choices.kind, choice) not in seen:
                        seen.add((key.choices.kind, choice))
                        compare(key.choices.section(choice), other.choices.section(choice), at)

    line = module.COMMAND_LINE
    compare(read_section(line.schema), section_of(module.JOB.schema), job)
    assert line.job == module.JOB.name == job
    assert line.has_page == bool(module.JOB.publish)


def test_a_storage_that_nobody_can_write_to_is_said_before_the_cluster_starts(run_job, tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    nowhere = {"RAY_ADDRESS": "127.0.0.1:1"}  # whoever asked for the cluster would fail there
    result = run_job("pipeline", DEMO, "--storage", str(tmp_path / "file"), **nowhere)
    assert result.returncode == 2, result.stderr
    assert f"--storage: Could not write {tmp_path}/file/slalom/" in result.stderr
    assert "Name a folder or an s3://, gs:// or az:// URI that you may write to" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bucket_whose_name_is_impossible_is_said_in_one_line(run_job):
    result = run_job("pipeline", DEMO, "--storage", "s3://my bucket/runs")
    assert result.returncode == 2, result.stderr
    assert "my bucket" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (VIDEOS, "preprocess.source=null", "preprocess: Set source="),
        (DEMO, "preprocess_labeled.source=/no/such", "preprocess_labeled: No such file or folder"),
        (DEMO, "preprocess_labeled.name=videos", "Two sections of the pipeline write shards/vid"),
        (DEMO, "preprocess_labeled.labels=null", "preprocess_labeled.labels is null"),
    ],
)
def test_what_would_stop_a_later_stage_is_said_before_the_first(
    config, override, message, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        execute(
            pipeline.JOB,
            load_config(PipelineConfig, ROOT / config, [override]),
            RunDir(str(tmp_path)),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_config_and_plan_and_writes_nothing(run_job, tmp_path):
    result = run_job("pipeline", DEMO, "--storage", str(tmp_path), "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "num_steps" in result.stdout
    assert "demonstrations: new" in result.stdout
    assert "resources:" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs/studies").glob("*_gpu.yaml")), ids=lambda path: path.stem
)
def test_a_preset_for_a_gpu_fits_one_machine_and_admits_that_it_never_ran(config):
    needed = study.JOB.resources(load_config(StudyConfig, config))
    assert needed.num_gpus == 1 and needed.num_cpus <= 16
    assert "NOT RUN" in config.read_text().split("name:")[0]


def test_only_jobs_that_compare_write_into_a_page(run_job, tmp_path):
    page = ("--page", str(tmp_path / "results.md"))
    assert "unrecognized arguments: --page" in run_job("pipeline", DEMO, *page, "--dry-run").stderr
    assert run_job("study", "configs/studies/demo.yaml", *page, "--dry-run").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(run_job, tmp_path):
    broken = tmp_path / "broken.md"
    broken.write_text("<!-- begin demo: written by its command -->\n")
    pages = {tmp_path: "is a folder", broken: "Mend the markers", "hf://a/b.md": "read only"}
    for page, words in pages.items():
        options = ("--page", str(page), "--storage", str(tmp_path / "runs"))
        result = run_job("study", "configs/studies/demo.yaml", *options)
        assert result.returncode == 2 and words in result.stderr, result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_submitted_job_refuses_storage_that_other_nodes_cannot_see(run_job):
    result = run_job("pipeline", DEMO, "--storage", "runs", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert result.returncode == 2
    assert "relative path" in result.stderr
