"""The rules of docs/architecture.md that a machine can check. Add a row when a rule is added."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = [
    ("lafp", {"ray", "ray_jobs", "data_pipelines"}),
    ("lafp/losses", {"omegaconf", "lafp.models", "lafp.objectives", "lafp.train"}),
    ("lafp/flow", {"lafp.models", "lafp.objectives", "lafp.policies", "lafp.train"}),
    ("lafp/models", {"lafp.objectives", "lafp.policies", "lafp.train", "lafp.losses"}),
    ("lafp/objectives", {"lafp.policies", "lafp.train", "lafp.eval"}),
    ("lafp/policies", {"lafp.objectives", "lafp.train", "lafp.eval"}),
    ("lafp/deploy", {"lafp.objectives", "lafp.train", "lafp.eval"}),
    ("lafp/envs", {"lafp.train", "lafp.policies", "lafp.objectives", "lafp.eval"}),
    ("lafp/video", {"torch", "lafp.data"}),
    ("lafp/data/shards/format.py", {"torch"}),
    ("data_pipelines", {"ray_jobs", "torch"}),
]


def python_files(package: str) -> list[Path]:
    path = ROOT / package
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"{package} holds no Python file."
    return files


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN, ids=[row[0] for row in FORBIDDEN])
def test_package_does_not_import(package, forbidden):
    for path in python_files(package):
        for name in imported_modules(path):
            hit = [f for f in forbidden if name == f or name.startswith(f + ".")]
            assert not hit, f"{path.relative_to(ROOT)} imports {name}: not allowed in {package}."


def test_only_the_config_module_imports_omegaconf():
    users = {p.name for p in python_files("lafp") if "omegaconf" in imported_modules(p)}
    assert users == {"config.py"}


def test_entry_points_define_no_classes():
    """cloudpickle copies what __main__ defines; a config dataclass copied so breaks OmegaConf."""
    for path in python_files("ray_jobs"):
        source = path.read_text()
        if '__name__ == "__main__"' in source:
            classes = [n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
            assert not classes, f"{path.name} defines {classes}; move them to an importable module."


@pytest.mark.parametrize(
    "module", ["lafp", "lafp.data.shards.format", "data_pipelines.preprocess.job"]
)
def test_preprocessing_workers_do_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc"])
def test_no_module_is_a_drawer(name):
    found = [p for package in ("lafp", "data_pipelines", "ray_jobs") for p in python_files(package)]
    assert not [p for p in found if p.stem == name]


def test_json_files_are_written_by_the_one_strict_writer():
    """Messages between two of our own processes are no files, and may hold what Python can read."""
    allowed = {"lafp/storage/strict_json.py", "data_pipelines/preprocess/sandbox/messages.py"}
    for package in ("lafp", "data_pipelines", "ray_jobs"):
        for path in python_files(package):
            calls = [
                f"{node.value.id}.{node.attr}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            ]
            if str(path.relative_to(ROOT)) not in allowed:
                assert not {"json.dump", "json.dumps"}.intersection(calls), path
