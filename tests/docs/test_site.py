"""The documentation's site: it is built strictly, so broken links, anchors and names fail."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra docs is missing")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_repository_is_on_the_site_without_leftovers_of_markdown(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    elsewhere = {"index", "map", "changelog", "contributing", "security", "infra"}
    assert {path.stem for path in site.glob("*.html")} == {*names, *elsewhere, "404"}
    for path in site.glob("*.html"):
        # GitHub reads a list below a line of text, and a table below one; the site needs a gap.
        leftovers = re.findall(r"<p>[^<]*\n(?:[-*] |\|)[^<]{0,60}", path.read_text())
        assert not leftovers, f"{path.name}: leave a line free before {leftovers[0][-60:]!r}"


def test_links_between_files_of_the_repository_lead_to_pages_and_copies(site):
    front = (site / "index.html").read_text()
    for link in ("usage.html#the-demo", "infra.html", "overview.svg", "map.html"):
        assert f'"{link}"' in front
    assert '"source/examples/lapo_in_150_lines.py"' in front
    assert (site / "source/examples/lapo_in_150_lines.py").is_file()
    for path in [*site.glob("[!4]*.html"), *site.glob("api/*.html")]:
        for link in re.findall(r'(?:href|src)="([^"#:?]+)[^":]*"', path.read_text()):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("agent", ["lafp.agent.Agent.load", "lafp.agent.Agent.act"]),
        ("lam", ["lafp.lam.load_lam"]),
        ("shards", ["lafp.data.shards.sets.open_shard_set", "lafp.data.shards.reader.ClipReader"]),
        ("objectives", ["lafp.objectives.base.Objective.forward", "lafp.objectives.lapa.Lapa"]),
        ("policies", ["lafp.policies.base.Policy", "lafp.policies.latent_flow.LatentFlow"]),
        ("environments", ["lafp.envs.base.VectorEnv", "lafp.envs.procgen.Procgen"]),
    ],
)
def test_the_reference_shows_the_public_face(site, page, names):
    text = (site / f"api/{page}.html").read_text()
    for name in names:
        assert f'id="{name}"' in text, name
