"""README and docs name jobs, configs, files and figures that are there."""

import importlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from ray_jobs.core.job import Job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
TOP = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES = {str(page.relative_to(ROOT)): page for page in [*TOP, ROOT / "infra/README.md", *DOCS]}
JOBS_TABLE = (ROOT / "docs/usage.md").read_text().partition("| Job | Does |")[2]
JOBS = re.findall(r"^\| `(\w+)` \|", JOBS_TABLE.partition("\n\n")[0], re.MULTILINE)
FOLDERS = ("lafp", "data_pipelines", "ray_jobs", "tests", "examples", "infra")
SOURCES = [
    path for name in FOLDERS for end in ("py", "js") for path in (ROOT / name).rglob(f"*.{end}")
]
WITHOUT_CONFIG = {"doctor"}


@pytest.mark.parametrize("name", JOBS)
def test_every_job_of_the_table_is_a_command_that_starts_like_the_others(name):
    """Hence each can be submitted: what joins the cluster and checks the storage is common."""
    module = importlib.import_module(f"ray_jobs.{name}")
    source = Path(str(module.__file__)).read_text()
    if name in WITHOUT_CONFIG:
        assert source.rstrip().endswith("main()") and "connect(" in source
    else:
        assert isinstance(module.JOB, Job) and module.JOB.name == name
        assert source.rstrip().endswith("main(JOB, COMMAND_LINE)")


def test_extras_that_pages_and_messages_name_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = "".join(path.read_text() for path in [*PAGES.values(), *SOURCES])
    named = ",".join(re.findall(r"(?:lafp|'\.)\[([\w,]+)\]", texts)).split(",")
    assert len(named) > 50 and set(named) <= project["optional-dependencies"].keys()


def test_no_job_is_missing_from_the_table():
    commands = {
        path.stem
        for path in (ROOT / "ray_jobs").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    # The others have sections of their own.
    assert commands == {*JOBS, "compare", "push", "serve", "takedown", "to_lerobot", "view"}


@pytest.mark.parametrize("page", PAGES)
def test_configs_and_modules_that_a_page_names_are_there(page):
    text = PAGES[page].read_text()
    for config in re.findall(r"(?<![\w/])(?:/app/)?(configs/[\w./-]+\.yaml)", text):
        assert (ROOT / config).is_file(), f"{page} names {config}"
    for module in re.findall(r"python -m ((?:ray_jobs|tests)\.[a-z_][\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page} names {module}"


# These two also name files that a reader is to write.
@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"CONTRIBUTING.md", "docs/extending.md"}))
def test_files_that_a_page_names_are_there_and_hold_what_it_says(page):
    """A page may leave out the first folders of a path, and write ``...`` for some in between."""
    text = PAGES[page].read_text()
    for file in set(re.findall(r"`(?!lerobot/)([\w./-]+\.(?:py|js))`", text)):
        assert matches(file), f"{page} names {file}"
    for name, file in re.findall(r"`(\w+)` in `([\w./-]+\.py)`", text):
        found = [path for path in matches(file) if name in path.read_text()]
        assert found, f"{page} says that {name} is in {file}"


def matches(file: str) -> list[Path]:
    pattern = f"*/{file.replace('...', '*')}"
    return [path for path in SOURCES if fnmatch(str(path), pattern)]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    path = PAGES[page]
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{page} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page} links to {link}"


def test_the_map_shows_every_page():
    text = (ROOT / "docs/README.md").read_text()
    for page in DOCS:
        assert page.name == "README.md" or f"({page.name})" in text, f"{page.name} is not on it"


def test_targets_that_pages_name_are_in_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, path in PAGES.items():
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{page} names make {target}"


def test_each_section_that_a_command_replaces_is_one_section():
    """Text by hand between the markers would be lost when the command runs again."""
    results = (ROOT / "docs/results.md").read_text()
    sections = re.findall(r"<!-- begin (\w+): .*?-->(.*?)<!-- end \1: ", results, re.DOTALL)
    assert len(sections) == results.count("<!-- begin ") > 0
    for name, text in sections:
        assert len(re.findall(r"^## ", text, re.MULTILINE)) == 1, name


def test_the_result_on_the_first_screen_is_the_measured_one():
    first_screen = README.partition("\n## ")[0]
    results = " ".join((ROOT / "docs/results.md").read_text().split())
    figures = re.findall(r"\d+(?: %| points)? \[-?\d+, \d+\]", " ".join(first_screen.split()))
    assert len(figures) == 5
    assert not [figure for figure in figures if figure not in results]
    commands = re.findall(r"^python -m .*$", first_screen, re.MULTILINE)
    assert commands and all(command in results for command in commands)
