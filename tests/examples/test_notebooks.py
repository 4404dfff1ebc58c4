"""The notebooks in examples/: they hold no outputs, name what exists, and run from end to end."""

import ast
import importlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from ray_jobs import command

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def code(path: Path) -> str:
    """The cells of Python as one program."""
    return "\n\n".join(text for text in cells(path, "code") if not text.startswith("%%bash\n"))


def shell(path: Path) -> str:
    return "\n".join(text for text in cells(path, "code") if text.startswith("%%bash\n"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert cell["metadata"] == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_python_compiles_and_what_it_imports_is_there(path):
    tree = ast.parse(code(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_commands_configs_and_links_are_there(path):
    text = shell(path)
    script = text.replace("%%bash\n", "")
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    everything = text + "\n".join(cells(path, "markdown"))
    commands = re.findall(r"\blafp ([a-z]+(?:-[a-z]+)*) (?=[\w.$]|DIR|RUN)", text)
    assert commands and set(commands) <= {
        name.replace("_", "-") for name in (*command._jobs(), *command._OWN)
    }
    for config in re.findall(r"configs/[\w/]+\.yaml", everything):
        assert (EXAMPLES.parent / config).is_file(), config
    for link in LINK.findall(everything):
        assert (EXAMPLES / link).is_file(), link


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("train_on_your_videos", ["40 clips, ", "held-out loss", "image/png", "numbers in z"]),
        (
            "use_the_agent",
            ["success: ", "demonstrator: 100%", "equal here and over HTTP", "stopped:"],
        ),
    ],
)
def test_it_runs_from_end_to_end(name, wanted, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the extra notebooks is missing")
    client = pytest.importorskip("nbclient", reason="the extra notebooks is missing")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=1800, resources=resources).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    for text in wanted:
        assert text in said, f"{text!r} is missing in {said[:3000]}"
