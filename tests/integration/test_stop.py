"""SIGTERM at the process of a study: it reaches the stages that train, and they save."""

import re
import signal
import subprocess
import sys
import time

import pytest

from lafp.train.checkpoint_files import is_whole
from tests.integration.conftest import ROOT

ENDLESS = "train.num_steps=1000000"
SELDOM = ("train.checkpoint_every_steps=1000000", "train.evaluate_every_steps=1000000")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "stage", "folder"),
    [
        ("tiny", "train_lam", "lam"),  # a Ray task of the driver
        ("tiny_labels", "train_decoder.0", "decoder/latent_flow"),  # of Tune's trial
    ],
)
def test_sigterm_at_the_driver_has_the_running_stage_save(tmp_path, config, stage, folder):
    driver = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray_jobs.study", f"configs/studies/{config}.yaml"),
            *("--storage", str(tmp_path)),
            *(f"pipeline.{stage}.{override}" for override in (ENDLESS, *SELDOM)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_metrics(tmp_path, folder, driver)
        driver.send_signal(signal.SIGTERM)
        output, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 1, output
    assert "Stopped by SIGTERM. Run the same command again" in output, output
    assert "Unhandled error" not in output, output
    saved = list(tmp_path.glob(f"tiny*/stages/{folder}/*/checkpoints/*"))
    assert saved and all(is_whole(str(checkpoint)) for checkpoint in saved)
    logs = [path.read_text() for path in tmp_path.glob(f"tiny*/stages/{folder}/*/log.txt")]
    steps = {int(re.search(r"Stopped at step (\d+) of 1000000", log)[1]) for log in logs}
    assert steps == {int(checkpoint.name.removeprefix("step-")) for checkpoint in saved}


def wait_for_metrics(folder, stage, driver):
    deadline = time.monotonic() + 600
    while not any(p.stat().st_size for p in folder.glob(f"tiny*/stages/{stage}/*/metrics.jsonl")):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
