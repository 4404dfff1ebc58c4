"""The rules of docs/architecture.md that a machine can check. Add a row when a rule is added."""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lafp", "data_pipelines", "ray_jobs")
LAYERS = [
    {
        *("lafp.config", "lafp.storage", "lafp.device_constants"),
        *("lafp.machine", "lafp.ranks", "lafp.seeding"),
    },
    {"lafp.confined", "lafp.http", "lafp.types"},
    {"lafp.video"},
    {"lafp.data"},
    {"lafp.runs", "lafp.models", "lafp.flow_matching", "lafp.envs"},
    {"lafp.losses"},
    {"lafp.objectives", "lafp.policies"},
    {"lafp.finished"},
    {"lafp.agent", "lafp.lam"},
    {"lafp"},
    {"lafp.train", "lafp.serve"},
    {"lafp.evaluate"},
    {"lafp.report"},
    {"lafp.view"},
    {"data_pipelines.on_ray"},
    {"data_pipelines.preprocess", "data_pipelines.collect"},
    {"data_pipelines.latent_tables"},
    {
        "data_pipelines.draw_masks",
        "data_pipelines.label_latents",
        "data_pipelines.takedown",
        "data_pipelines.to_lerobot",
    },
    {"ray_jobs.core"},
    {"ray_jobs.training", "ray_jobs.evaluation"},
    {"ray_jobs.studies"},
]
"""From the lowest to the highest. A package imports lower ones only, none beside it. The commands,
``ray_jobs/*.py``, stand above all."""
FORBIDDEN = [
    ("lafp", {"ray"}),
    ("lafp/losses", {"omegaconf", "lafp.models"}),
    ("lafp/video", {"torch"}),
    ("lafp/data/shards/format.py", {"torch"}),
    ("data_pipelines", {"torch"}),
]


def python_files(package: str) -> list[Path]:
    path = ROOT / package
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"{package} holds no Python file."
    return files


@cache
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


def package_of(module: str) -> str:
    """The part of a module's name that ``LAYERS`` may list."""
    return ".".join(module.split(".")[:2])


def modules() -> dict[str, Path]:
    """Every module of the product, by name."""
    names = {}
    for package in PACKAGES:
        for path in python_files(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names[name.removesuffix(".__init__")] = path
    return names


def imports() -> dict[str, set[str]]:
    """Module -> the modules of the product that it imports, also for type checkers only."""
    found = modules()
    counted = found.keys() - set(PACKAGES)
    return {name: imported_modules(path) & counted - {name} for name, path in found.items()}


def test_no_modules_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(imports()).prepare()


def test_packages_import_lower_layers_only():
    heights = {package: height for height, layer in enumerate(LAYERS) for package in layer}
    commands = {f"ray_jobs.{path.stem}": len(LAYERS) for path in (ROOT / "ray_jobs").glob("*.py")}
    heights |= commands
    for importer, imported in imports().items():
        package = package_of(importer)
        for other in {package_of(name) for name in imported} - {package}:
            assert heights[other] < heights[package] or {other, package} <= commands.keys(), (
                f"{importer} imports {other}, which does not lie below it."
            )


def test_no_module_is_imported_by_a_name_that_the_layers_do_not_see():
    """``import_module`` takes modules of other people, and those that a registry names."""
    for package in PACKAGES:
        for path in python_files(package):
            ours = {name for name in named_imports(path) if name.split(".")[0] in PACKAGES}
            assert not ours, f"{path.relative_to(ROOT)} imports {ours} by name: import it above."


def named_imports(path: Path) -> set[str]:
    """What a file hands to ``import_module`` or ``__import__``, as far as it is written there."""
    found = set()
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and call.args:
            called, name = ast.unparse(call.func).rpartition(".")[2], call.args[0]
            if isinstance(name, ast.JoinedStr):
                name = name.values[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                found.add(str(name.value))
    return found


def test_an_agent_needs_torch_only():
    heavy = {"ray", "deepspeed", "boto3", "google", "azure", "av", "pyarrow", "wandb"}
    code = f"import sys, lafp; lafp.Agent, lafp.load_lam; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_only_reading_and_checking_of_config_values_import_omegaconf():
    users = {p.name for p in python_files("lafp") if "omegaconf" in imported_modules(p)}
    assert users == {"read.py", "leaves.py"}


@pytest.mark.parametrize(
    ("module", "owners"),
    [
        ("boto3", ("lafp/storage/s3.py", "lafp/storage/clients/s3.py")),
        ("botocore", ("lafp/storage/s3.py", "lafp/storage/clients/s3.py")),
        ("google", ("lafp/storage/gs.py", "lafp/storage/clients/gs.py")),
        ("azure", ("lafp/storage/az.py", "lafp/storage/clients/az.py")),
        ("huggingface_hub", ("lafp/storage/hf.py", "lafp/storage/clients/hf.py")),
        ("fsspec", ()),
        ("pyarrow.fs", ()),
    ],
)
def test_each_object_store_has_one_client(module, owners):
    for package in PACKAGES:
        for path in python_files(package):
            names = {name for name in imported_modules(path) if f"{name}.".startswith(f"{module}.")}
            assert not names or str(path.relative_to(ROOT)) in owners, f"{path} imports {names}"


def test_our_tables_are_read_and_written_in_one_place():
    """``sources`` read the tables of other people's data sets."""
    ours = ("lafp/storage/tables.py", "lafp/storage/stored_table.py")
    allowed = (*ours, "data_pipelines/preprocess/sources/")
    for package in PACKAGES:
        for path in python_files(package):
            found = imported_modules(path) & {"pyarrow.parquet", "pyarrow.dataset"}
            assert not found or str(path.relative_to(ROOT)).startswith(allowed), f"{path}: {found}"


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


def test_processes_that_decode_load_no_package_that_they_seldom_need():
    """There is one for every core, and a small job is over as soon as they have started."""
    heavy = {"torch", "ray", "pyarrow", "pandas", "h5py", "boto3", "omegaconf"}
    module = "data_pipelines.preprocess.sandbox.process"
    code = f"import sys, {module}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc"])
def test_no_module_is_a_drawer(name):
    found = [p for package in PACKAGES for p in python_files(package)]
    assert not [p for p in found if p.stem == name]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_parameter_or_field_is_called_decoder(package):
    """It may be a video decoder or an action decoder, and in a config nothing else says which."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.arg) and node.arg == "decoder")
        or (isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "decoder")
    ]
    assert not found, f"Call them video_decoder or action_decoder: {found}"


def test_json_files_are_written_by_the_one_strict_writer():
    """Messages between two of our own processes are no files, and may hold what Python can read."""
    allowed = {"lafp/storage/strict_json.py", "data_pipelines/preprocess/sandbox/messages.py"}
    for package in PACKAGES:
        for path in python_files(package):
            calls = [
                f"{node.value.id}.{node.attr}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            ]
            if str(path.relative_to(ROOT)) not in allowed:
                assert not {"json.dump", "json.dumps"}.intersection(calls), path


def test_tests_import_neither_benchmarks_nor_private_names():
    for path in python_files("tests"):
        if "benchmarks" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            assert not node.module.startswith("tests.benchmarks"), path
            if node.module.split(".")[0] in PACKAGES:
                assert not [a.name for a in node.names if a.name.startswith("_")], path
