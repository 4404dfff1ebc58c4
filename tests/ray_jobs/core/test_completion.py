"""TAB in a real bash: commands, options, files, and keys of the config on the line."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LAM = "lafp train-lam configs/train_lam/videos.yaml"
# What bash does when TAB is pressed behind $1.
PRESS_TAB = r"""
eval "$(lafp completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
spec=$(complete -p lafp)
[[ $spec =~ -F\ ([a-z_]+) ]]
"${BASH_REMATCH[1]}" lafp "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The command `lafp` of this checkout, also where the package is not installed."""
    folder = tmp_path_factory.mktemp("bin")
    lafp = folder / "lafp"
    lafp.write_text(f"#!{sys.executable}\nfrom ray_jobs.command import main\n\nmain()\n")
    lafp.chmod(0o755)
    found = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {key: value for key, value in os.environ.items() if "COMP" not in key} | found


def press_tab(line: str, environment: dict) -> set[str]:
    command = ["bash", "--norc", "-c", PRESS_TAB, "bash", line]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("lafp train-", {"train-bc", "train-decoder", "train-lam", "train-policy"}),
        ("lafp comp", {"compare", "completion"}),
        ("lafp completion ", {"bash", "zsh", "fish", "-h", "--help"}),
        ("lafp compare runs --", {"--help", "--out"}),
        (f"{LAM} --ru", {"--run-name"}),
        (f"{LAM[:-8]}", {"configs/train_lam/videos.yaml"}),
        (f"{LAM} train.optim.l", {"train.optim.lr="}),
        ("lafp takedown video_i", {"video_id="}),
        # Its objective has a bottleneck of the kind vq, which has codes.
        (f"{LAM} objective.bottleneck.num_codeb", {"objective.bottleneck.num_codebooks="}),
        ("lafp train_lam configs/train_lam/laom.yaml objective.bottleneck.num_codeb", {""}),
        # Bash splits words at "=", so it wants what stands behind it.
        (f"{LAM} objective.name=la", {"laof", "laom", "lapa", "lapo"}),
        # Options may stand anywhere, and sections of lists have numbers.
        (
            "lafp pipeline configs/pipeline/tiny.yaml --dry-run --run-name x evaluate.methods.2.n",
            {"evaluate.methods.2.noise="},
        ),
    ],
)
def test_bash_completes(environment, line, wanted):
    assert press_tab(line, environment) >= wanted
    if wanted != {"bash", "zsh", "fish", "-h", "--help"}:
        assert len(press_tab(line, environment)) < 12


def test_a_config_that_is_missing_or_damaged_still_has_its_plain_keys(environment, tmp_path):
    damaged = tmp_path / "x.yaml"
    damaged.write_text("[")
    for config in ("gone.yaml", str(damaged)):
        found = press_tab(f"lafp train-lam {config} train.optim.l", environment)
        assert found == {"train.optim.lr="}


@pytest.mark.parametrize("line", ["lafp ", f"{LAM} train."])
def test_neither_help_nor_completion_loads_torch_or_takes_long(environment, line, tmp_path):
    asks = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asks |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    for arguments, more in ((["--help"], {}), ([], asks)):
        command = [
            sys.executable,
            "-X",
            "importtime",
            shutil.which("lafp", path=environment["PATH"]),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment | more, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr[-2000:]
        loaded = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
        assert "lafp.config" in loaded and not loaded & {"torch", "ray", "pyarrow"}
        assert after.ru_utime - before.ru_utime < 0.7
    assert (tmp_path / "found").read_text()


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")])
def test_each_shell_gets_code_that_names_the_command(environment, shell, check):
    done = subprocess.run(
        ["lafp", "completion", shell], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "lafp" in done.stdout
    if program := shutil.which(shell):
        read = subprocess.run([program, check], input=done.stdout, capture_output=True, text=True)
        assert read.returncode == 0, read.stderr
