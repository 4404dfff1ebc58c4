"""The comparison of runs: what differs is said, with its numbers, and nothing else is."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lafp import storage
from lafp.config import ConfigError
from lafp.report.comparison.compared import open_runs
from lafp.report.comparison.comparison_page import write_comparison
from tests.browser import browsing
from tests.synthetic_run import write_demo_run

LOST = [f"synthetic/{n}.mp4" for n in range(15)]


def change_rows(path: Path, change) -> None:
    table = pq.read_table(path)
    rows = [changed for row in table.to_pylist() if (changed := change(row))]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: the second has another rate, rejects 15 of the first's videos, and acts better."""
    folder = tmp_path_factory.mktemp("runs")
    write_demo_run(folder / "a")
    shutil.copytree(folder / "a", folder / "b")
    config = folder / "b/lam/config.yaml"
    text = yaml.safe_load(config.read_text())
    text["train"]["num_steps"] = 2000
    config.write_text(yaml.safe_dump(text))
    provenance = folder / "b/lam/provenance.json"
    record = json.loads(provenance.read_text())
    record["packages"]["torch"] = "2.99.0"
    provenance.write_text(json.dumps(record))
    metrics = folder / "b/lam/metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    records[-1]["loss"] = 0.125
    metrics.write_text("".join(json.dumps(each) + "\n" for each in records))
    shards = folder / "b/shards/videos"
    change_rows(
        shards / "clips/part-00000.parquet", lambda row: row["video_uri"] not in LOST and row
    )
    rejects = pq.read_table(shards / "rejects.parquet").to_pylist()
    lost = {"start_s": 0.0, "end_s": 1.0, "reason": "too_dark", "detail": "mean 0.01"}
    rejects += [lost | {"video_uri": uri} for uri in LOST[1:]]  # the first is not met at all
    pq.write_table(pa.Table.from_pylist(rejects), shards / "rejects.parquet")

    def better(row):
        if row["label"] == "lafp_fresh" and "episode" in row:
            row["success"] = row["episode"] < 38
        return row

    change_rows(folder / "b/evaluation/episodes.parquet", better)
    return folder


@pytest.fixture(scope="module")
def compared(runs):
    lines = write_comparison([str(runs / "a"), str(runs / "b")], str(runs / "page.html"))
    return "\n".join(lines), (runs / "page.html").read_text()


def test_the_terminal_says_what_differs(compared):
    said, _ = compared
    assert "configs: 1 key differs\n  lam train.num_steps: 1000 | 2000\n" in said
    assert "versions: 1 differs\n  torch: " in said and "2.99.0" in said
    kept = "14 videos kept by a and rejected by b (14 too dark); 1 not among its videos"
    assert kept in said and "kept by b" not in said
    assert "loss, training 0.215 | 0.125" in said
    # 32 and 38 of 40 episodes.
    assert re.search(r"LAFP .*fresh noise, 4 steps: 78 % \[73, 83\] .*difference \+15 points", said)
    assert "Probe R², Latent action z: 0.94 [0.92, 0.96] | 0.94 [0.92, 0.96]" in said


def test_the_page_holds_it_too_and_its_output_is_bounded(compared):
    _, page = compared
    assert "train.num_steps" in page and "engine.zero_stage" not in page.partition("videos?")[0]
    shown = re.findall(r"<td[^>]*>(synthetic/\d+\.mp4)</td>", page)
    assert len(shown) == 12 and set(shown) < set(LOST) and "12 of 14 videos" in page
    assert page.count("too dark: mean 0.01") == 12
    for section in ("stages", "configs", "shards-videos", "training-policies", "evaluation"):
        assert f'<section id="{section}">' in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize("key", ["seed", "num_episodes"])
def test_other_episodes_are_not_compared_one_by_one(runs, compared, tmp_path, key):
    assert ", difference " in compared[0]
    shutil.copytree(runs / "b", tmp_path / "c")
    path = tmp_path / "c/evaluation/config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: 7}))
    lines = write_comparison([str(runs / "a"), str(tmp_path / "c")], str(tmp_path / "page.html"))
    assert ", difference " not in "\n".join(lines)


def test_a_run_without_rows_has_no_say_whether_two_others_met_the_same_episodes(runs, tmp_path):
    """The first two share a seed, but the second has no rows, and the third has another seed."""
    for name in ("b", "c"):
        shutil.copytree(runs / "b", tmp_path / name)
    for name in ("results", "episodes"):
        (tmp_path / f"b/evaluation/{name}.parquet").unlink()
    path = tmp_path / "c/evaluation/config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"seed": 7}))
    three = [str(runs / "a"), str(tmp_path / "b"), str(tmp_path / "c")]
    lines = write_comparison(three, str(tmp_path / "page.html"))
    assert "LAFP" in "\n".join(lines) and ", difference " not in "\n".join(lines)


@pytest.mark.parametrize("width", [1300, 400])
def test_the_page_fits_a_window_and_breaks_no_rule_of_the_browser(runs, compared, width):
    with browsing() as page:
        page.open((runs / "page.html").as_uri(), width=width)
        page.wait("document.readyState == 'complete'")
        assert page.run("document.documentElement.scrollWidth") <= width + 1
        images = "[...document.images].every(image => image.naturalWidth > 0)"
        assert page.run(images) and page.failures == []


def test_runs_on_s3_and_three_runs_compare(runs, s3_bucket):
    for path in (runs / "a/lam").rglob("*"):
        if path.is_file():
            name = path.relative_to(runs)
            storage.write_bytes(f"{s3_bucket}/{name}", path.read_bytes())
    lines = write_comparison(
        [f"{s3_bucket}/a", str(runs / "a"), str(runs / "b")], f"{s3_bucket}/page.html"
    )
    assert "loss, training 0.215 | 0.215 | 0.125" in "\n".join(lines)
    assert "stages in all: lam" in lines
    assert storage.read_text(f"{s3_bucket}/page.html").startswith("<!DOCTYPE html>")


def test_what_cannot_be_compared_is_one_line_that_says_what_to_name(runs, tmp_path):
    for name, stage in (("only_lam", "lam"), ("only_videos", "shards/videos")):
        shutil.copytree(runs / "a" / stage, tmp_path / name / stage)
    only_lam, only_videos = str(tmp_path / "only_lam"), str(tmp_path / "only_videos")
    with pytest.raises(ConfigError, match=r"different kinds.*only_lam has lam; only_videos has sh"):
        open_runs([only_lam, only_videos])
    with pytest.raises(ConfigError, match=r"one stage of a run: name the folder of the run"):
        open_runs([only_lam, f"{only_lam}/lam"])
    with pytest.raises(ConfigError, match="named twice"):
        open_runs([only_lam, only_lam])
    shutil.copytree(tmp_path / "only_lam", tmp_path / "study/runs/seed_0")
    with pytest.raises(ConfigError, match=r"It holds runs: name two .*study/runs/seed_0"):
        open_runs([only_lam, str(tmp_path / "study")])


def test_labels_are_the_shortest_ends_that_tell_runs_apart(runs, tmp_path):
    shutil.copytree(runs / "a/lam", tmp_path / "a/lam")
    labels = [each.label for each in open_runs([str(runs / "a"), str(tmp_path / "a")])]
    assert labels == [f"{runs.name}/a", f"{tmp_path.name}/a"]
