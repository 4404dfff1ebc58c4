"""The script for Slurm, on a real slurmctld and two slurmd: a job stops in time and goes on."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lafp.train.metrics.log import read_metrics, read_starts
from tests.integration.ray_cluster import free_port
from tests.synthetic_shards import write_shard_set

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "slurm" / "lafp.sbatch"
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
SlurmctldPort={controller}
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={one} CPUs=4
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={two} CPUs=4
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.geteuid() != 0,
        reason="needs Debian's slurm-wlm, and root to start it",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment of the clients of a Slurm with two nodes on this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    ports = {name: free_port() for name in ("controller", "one", "two")}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, **ports))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"SLURM_CONF": str(config), "PATH": path}
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    munged = ["runuser", "-u", "munge", "--", "munged", "--foreground"]
    commands = [munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", n] for n in ("n1", "n2"))]
    started = []
    with (folder / "daemons.log").open("w") as log:
        for command in commands:
            started.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
            )
            time.sleep(1)
        yield environment
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        said = log.read_text()[-3000:] if log.exists() else "nothing was said"
        assert time.monotonic() < deadline, said
        time.sleep(0.3)


def field(slurm: dict[str, str], job: str, name: str) -> str:
    shown = subprocess.run(
        ["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True
    )
    return re.search(rf"\b{name}=(\S+)", shown.stdout)[1]


def test_a_job_whose_time_is_over_saves_and_goes_on_in_the_queue(slurm, tmp_path):
    shards = write_shard_set(tmp_path / "shards", num_clips=32)
    lam, log = tmp_path / "run" / "lam", tmp_path / "job.log"
    command = [
        *(
            "python",
            "-m",
            "ray_jobs.train_lam",
            "configs/train_lam/lapo_debug.yaml",
            f"shards={shards}",
        ),
        *("train.num_steps=1500", "train.global_batch_size=8", "train.ingest.mode=direct"),
        *("train.checkpoint_every_steps=100000", "train.report_every_steps=1"),
        *("--storage", str(tmp_path), "--run-name", "run"),
    ]
    submitted = subprocess.run(
        [
            *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=4", f"--output={log}"),
            *(str(SCRIPT), *command),
        ],
        env=slurm,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    job = submitted.stdout.strip()
    wait_for(lambda: len(read_metrics(str(lam))) > 20 if lam.exists() else False, log)
    # Slurm sends this signal before the time limit.
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True)
    wait_for(lambda: field(slurm, job, "Restarts") == "1", log)
    stopped_at = int(re.search(r"Stopped at step (\d+) of 1500", log.read_text())[1])
    assert 20 <= stopped_at < 1500
    # Slurm keeps a job that went back for a while, so that it does not start at once.
    subprocess.run(["scontrol", "release", job], env=slurm, check=False)
    wait_for(lambda: field(slurm, job, "JobState") in ("COMPLETED", "FAILED"), log, 600)
    assert field(slurm, job, "JobState") == "COMPLETED", log.read_text()[-3000:]
    assert [start["step"] for start in read_starts(str(lam))] == [0, stopped_at]
    assert (lam / "model.json").is_file()


STAND_IN = """#!/usr/bin/env bash
# In place of Apptainer, which is not here: notes how it was called, and starts the command.
printf '%s\\n' "$*" >> "$APPTAINER_CALLS"
while [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
"""


def test_with_an_image_ray_and_the_job_run_in_it(slurm, tmp_path):
    program, log, calls = tmp_path / "bin/apptainer", tmp_path / "job.log", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    environment = slurm | {
        "PATH": f"{program.parent}{os.pathsep}{slurm['PATH']}",
        "LAFP_IMAGE": "/images/lafp.sif",
        "APPTAINER_CALLS": str(calls),
    }
    code = "import ray; ray.init(log_to_driver=False); print(len(ray.nodes()), 'nodes')"
    command = ["python", "-c", code]
    subprocess.run(
        ["sbatch", "--wait", "--nodes=2", "--cpus-per-task=1", f"--output={log}", SCRIPT, *command],
        env=environment,
        cwd=ROOT,
        check=False,
        timeout=300,
    )
    assert "2 nodes" in log.read_text(), log.read_text()
    options = f"exec --nv --bind {slurm.get('TMPDIR', '/tmp')} /images/lafp.sif "
    started = calls.read_text().splitlines()
    assert all(call.startswith(options) for call in started)
    kinds = [call.removeprefix(options).split(" --")[0] for call in started]
    assert sorted(kinds) == sorted(["ray start"] * 2 + ["python - 2", f"python -c {code}"])


def test_a_job_whose_time_is_over_before_its_command_starts_goes_back_too(slurm, tmp_path):
    """Ray never comes up, so there is no command yet. Afterwards all nodes are cleaned up."""
    log, removed = tmp_path / "job.log", tmp_path / "removed"
    programs = {
        "ray": f"touch {tmp_path}/began; exec sleep 1000",
        "rm": f'echo "$SLURMD_NODENAME $SLURM_STEP_ID $*" >> {removed}; exec /bin/rm "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, code in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = slurm | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{slurm['PATH']}"}
    command = ["sbatch", "--parsable", "--nodes=2", f"--output={log}", str(SCRIPT), "true"]
    submitted = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    job = submitted.stdout.strip()
    wait_for((tmp_path / "began").exists, log)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True)
    wait_for(lambda: field(slurm, job, "Restarts") == "1", log)
    subprocess.run(["scancel", job], env=slurm, check=True)
    assert "The time is over" in log.read_text()
    temp = f"{slurm.get('TMPDIR', '/tmp')}/ray-{job}"
    by_steps = {line.split()[0] for line in removed.read_text().splitlines() if temp in line}
    assert {"n1", "n2"} <= by_steps, removed.read_text()


def test_an_image_without_apptainer_is_refused_before_ray_starts(tmp_path):
    result = subprocess.run(
        [shutil.which("bash"), str(SCRIPT), "true"],
        env={"PATH": str(tmp_path), "SLURM_JOB_ID": "1", "LAFP_IMAGE": "/images/lafp.sif"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "there is no apptainer on" in result.stderr


def test_a_script_without_slurm_says_how_it_is_started():
    result = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert (result.returncode, result.stderr.startswith("Usage: sbatch")) == (2, True)
