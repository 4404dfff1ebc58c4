import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from lafp.config import ConfigError
from lafp.evaluate.rows.results import read_results, write_results
from lafp.report.run_page import ReportConfig, write_report
from lafp.runs.run_dir import RunDir
from tests.browser import browsing, tables_cut_off
from tests.synthetic_run import write_demo_run, write_video_run
from tests.synthetic_shards import damage_clips


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> str:
    return write_demo_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def video_run(tmp_path_factory) -> str:
    return write_video_run(tmp_path_factory.mktemp("runs") / "videos")


@pytest.fixture(scope="module")
def demo_summary(demo_run) -> dict:
    return write_report(ReportConfig(), demo_run)


@pytest.fixture(scope="module")
def demo_html(demo_run, demo_summary) -> str:
    return read_report(demo_run)


def read_report(run_uri: str) -> str:
    return (Path(run_uri) / "report.html").read_text()


def test_a_full_run_gets_every_section(demo_summary, demo_html):
    assert demo_summary["sections"] == [
        "outcome",
        "rollouts",
        "alignment",
        "latency",
        "probe",
        "latent-map",
        "latents",
        "shards-videos",
        "shards-labeled",
        "training",
        "time",
        "files",
    ]
    for section in demo_summary["sections"]:
        assert f'<section id="{section}">' in demo_html
    assert demo_summary["num_bytes"] == len(demo_html.encode())
    assert "no proof that one method is better in general" in demo_html


def test_the_tables_of_results_are_beside_the_page(demo_run, demo_summary):
    markdown, latex = ((Path(demo_run) / f"table.{kind}").read_text() for kind in ("md", "tex"))
    assert markdown.startswith(demo_summary["headline"].splitlines()[0])
    assert "| LAFP" in markdown and r"\toprule" in latex


def test_no_table_is_cut_off_in_a_window_of_1300_px(demo_run, demo_summary):
    with browsing() as page:
        assert tables_cut_off(page, Path(demo_run) / "report.html") == []


def test_the_page_loads_nothing_from_outside_of_itself(demo_html):
    assert all(src.startswith("data:") for src in re.findall(r'src="([^"]*)"', demo_html))
    assert all(href.startswith("#") for href in re.findall(r'href="([^"]*)"', demo_html))
    assert "<script" not in demo_html
    assert "url(" not in demo_html
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src" in demo_html
    assert demo_html.index("Content-Security-Policy") < demo_html.index("<style")


def test_text_from_the_data_is_escaped(video_run):
    write_report(ReportConfig(title="<b>bold</b>"), video_run)
    html = read_report(video_run)
    assert "moov atom not found &lt;script&gt;" in html
    assert "<b>bold</b>" not in html


def test_videos_without_labels_or_environment_report_what_the_lam_learned(video_run):
    summary = write_report(ReportConfig(), video_run)
    assert summary["sections"] == ["latents", "shards-videos", "training", "time", "files"]
    assert "assuming no change" in summary["headline"]
    html = read_report(video_run)
    assert "near duplicate" in html
    assert "slalom" not in html.lower()


def test_an_unfinished_run_reports_what_is_there_and_names_what_is_not(tmp_path, demo_run):
    run = tmp_path / "demo"
    shutil.copytree(demo_run, run)
    (run / "lam/summary.json").unlink()
    shutil.rmtree(run / "evaluation")
    summary = write_report(ReportConfig(), str(run))
    assert summary["sections"] == ["shards-videos", "shards-labeled", "training", "time", "files"]
    assert "Not finished: lam." in read_report(str(run))


def test_the_page_says_with_distractors_where_the_episodes_had_some(tmp_path, demo_run, demo_html):
    assert "to act in slalom, " in demo_html
    run = shutil.copytree(demo_run, tmp_path / "demo")
    table = str(run / "evaluation/results.parquet")
    write_results(table, [replace(row, distractors=True) for row in read_results(table)])
    write_report(ReportConfig(), str(run))
    assert "to act in slalom with distractors, " in read_report(str(run))


def test_damaged_clips_are_missing_on_the_contact_sheet_and_the_page_says_so(tmp_path):
    uri = write_video_run(tmp_path / "videos")
    shards = f"{uri}/shards/videos"
    damage_clips(shards, "train", num=2)
    write_report(ReportConfig(), uri)
    assert "2 damaged clips left out." in read_report(uri)
    damage_clips(shards, "train", num=2)  # sound again
    damage_clips(shards, "train")
    write_report(ReportConfig(), uri)
    assert "No clip of the contact sheet can be read" in read_report(uri)


def test_a_run_without_a_complete_stage_is_an_error(tmp_path):
    RunDir(str(tmp_path)).stage("lam").begin({}, {})
    with pytest.raises(ConfigError, match="nothing to report yet"):
        write_report(ReportConfig(), str(tmp_path))


def test_a_run_on_s3_gets_the_same_report(s3_bucket, demo_run, demo_summary, demo_html):
    import boto3

    client, bucket = boto3.client("s3"), s3_bucket.removeprefix("s3://")
    for path in Path(demo_run).rglob("*"):
        if path.is_file() and path.name != "report.html":
            client.upload_file(str(path), bucket, f"demo/{path.relative_to(demo_run)}")
    remote = write_report(ReportConfig(), f"{s3_bucket}/demo")
    assert remote["headline"] == demo_summary["headline"]
    body = client.get_object(Bucket=bucket, Key="demo/report.html")["Body"].read().decode()
    assert body.replace(f"{s3_bucket}/demo", demo_run) == demo_html


def test_every_number_of_the_result_table_is_on_the_page(demo_html):
    text = unescape(re.sub(r"<[^>]+>", " ", demo_html)).replace("\xa0", " ")
    for expected in ("31 % [26, 36]", "78 % [73, 83]", "0.97", "1.33", "1.60 ms", "0.94"):
        assert expected in text, expected


def test_the_report_is_made_anew_when_a_stage_changed_and_left_alone_when_none_did(
    tmp_path, video_run
):
    from ray_jobs.core.job import execute
    from ray_jobs.report import JOB

    folder = tmp_path / "videos"
    shutil.copytree(video_run, folder)
    run = RunDir(str(folder))
    execute(JOB, ReportConfig(), run)
    first = (folder / "report.html").stat().st_mtime_ns
    execute(JOB, ReportConfig(), run)
    assert (folder / "report.html").stat().st_mtime_ns == first
    shutil.rmtree(folder / "evaluation")
    summary = execute(JOB, ReportConfig(), run)
    assert "latents" not in summary["sections"]
    assert json.loads((folder / "report/summary.json").read_text()) == summary
