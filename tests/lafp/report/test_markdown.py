"""Sections of a page that commands write, and what stands in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.evaluate.rows.grouped import merged, one_run
from lafp.evaluate.rows.results import Result, Subject
from lafp.report.markdown import Command, facts_of, publish, write_section
from lafp.report.study_page import write_study
from lafp.runs.run_dir import RunDir

PROSE = "# Results\n\nBy hand.\n\n## Old study\n\nKept <!-- a comment -->.\n"
WHOLE = Command(job="study", config="configs/studies/forks.yaml", overrides=())


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "docs" / "results.md"
    path.parent.mkdir()
    path.write_text(PROSE)
    return path


def test_a_section_is_added_once_and_then_replaced_in_its_place(page):
    write_section(str(page), "one", "first")
    page.write_text(page.read_text() + "\nSaid of it by hand.\n")
    write_section(str(page), "two", "second")
    between = page.read_text()
    assert between.startswith(PROSE)
    write_section(str(page), "one", "first, anew")
    assert page.read_text() == between.replace("\nfirst\n", "\nfirst, anew\n")
    write_section(str(page), "one", "first")
    assert page.read_text() == between
    assert [path.name for path in page.parent.iterdir()] == ["results.md"], "nothing half written"


def test_a_page_that_is_not_there_is_begun(tmp_path):
    write_section(str(tmp_path / "new.md"), "one", "first")
    assert (tmp_path / "new.md").read_text().splitlines()[1] == "first"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("<!-- end one", "<!-- ende one"),
        lambda text: text.replace("<!-- begin one", "<!-- anfang one"),
        lambda text: text + text,
        lambda text: "\n".join(reversed(text.splitlines())),
    ],
    ids=["no end", "no begin", "twice", "reversed"],
)
def test_a_page_with_broken_markers_is_refused_and_left_alone(page, damage):
    write_section(str(page), "one", "first")
    page.write_text(damage(page.read_text()))
    before = page.read_text()
    with pytest.raises(ConfigError, match="Mend the markers"):
        write_section(str(page), "one", "anew")
    assert page.read_text() == before


@pytest.fixture
def study(tmp_path) -> Path:
    """Its folder: two seeds of one method that succeeds in half of 10 episodes."""
    bc = Subject(label="bc", method="latent_bc")
    runs = []
    for seed in (0, 3):
        rows = [Result.of(bc, "success", 0.5, 10), Result.of(bc, "action_mse", 0.125, 20)]
        runs.append(one_run(f"/s/{seed}", rows, {"bc": np.arange(10) % 2.0}, seed=seed))
    results = merged(runs)
    write_study(str(tmp_path / "study"), "two_forks", results)
    return tmp_path / "study"


def published(page, study, command, note=""):
    publish(str(page), str(study), name="two_forks", note=note, command=command, facts="FACTS.")
    return page.read_text().removeprefix(PROSE)


def test_a_study_says_how_it_was_made_and_what_it_found(page, study):
    text = published(page, study, WHOLE)
    assert "## Two forks\n\n```bash\npython -m ray_jobs.study configs/studies/forks.yaml\n" in text
    assert "Seeds 0, 3, 10 episodes per method and seed; in brackets 95 %" in text
    assert "FACTS." in text
    assert "| Latent BC | 50 % [30, 70] | 0.125 | 50 50 |" in text
    for link in ("results/two_forks.png", "results/two_forks.parquet"):
        assert f"({link})" in text
        source = {"png": "plot.png", "parquet": "results.parquet"}[link.rpartition(".")[2]]
        assert (page.parent / link).read_bytes() == (study / source).read_bytes()
    assert published(page, study, WHOLE) == text


def test_a_run_of_less_than_its_config_says_so_in_its_first_line(page, study):
    overrides = ("seeds=[0]", "pipeline.collect.num_episodes=20")
    text = published(page, study, replace(WHOLE, overrides=overrides))
    first = text.split("## Two forks\n\n")[1].splitlines()[0]
    assert first == (
        "**Not as its config says, but with `seeds=[0]` `pipeline.collect.num_episodes=20`.**"
    )
    command = "configs/studies/forks.yaml 'seeds=[0]' pipeline.collect.num_episodes=20"
    assert command in text


def test_what_a_reader_must_know_is_the_first_line(page, study):
    text = published(page, study, WHOLE, note="One episode each.")
    assert "## Two forks\n\n**One episode each.**\n\n```bash\n" in text


def test_work_hardware_and_revision_are_those_of_the_stages(tmp_path, monkeypatch):
    stages = []
    for name, revision, wall_s in (
        ("lam", "a" * 40, 80.0),
        ("policy/x", "b" * 40 + "+dirty", 40.0),
    ):
        monkeypatch.setenv("LAFP_GIT_REVISION", revision)
        stage = RunDir(str(tmp_path)).stage(name)
        stage.begin({}, {})
        stage.finish({"wall_s": wall_s})
        stages.append(stage)
    text = facts_of(stages)
    assert text.startswith("2 stages, 2 min 0 s in all")
    assert text.endswith("Revision aaaaaaaa, bbbbbbbb+dirty.")
    assert text.count(" cores (") == 1, "one machine, named once"


def test_stages_of_a_run_that_was_stopped_early_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("LAFP_GIT_REVISION", "a" * 40)
    done, begun, never_begun = map(RunDir(str(tmp_path)).stage, ("lam", "policy/x", "decoder/x"))
    done.begin({}, {})
    done.finish({"wall_s": 80.0})
    monkeypatch.setenv("LAFP_GIT_REVISION", "b" * 40)
    begun.begin({}, {})
    text = facts_of([done, begun, never_begun])
    assert text.startswith("1 stage, 1 min 20 s in all")
    assert text.endswith("Revision aaaaaaaa.")
