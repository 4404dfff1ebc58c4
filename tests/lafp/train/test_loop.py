"""The loop in one process, without Ray."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lafp.config import ConfigError
from lafp.train.checkpoint_files import is_whole
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.metrics.finite_guard import NonFiniteLossError
from lafp.train.metrics.log import read_metrics
from lafp.train.notes import read_notes
from lafp.train.optim import OptimConfig
from lafp.types import LossOutput
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), num_clips=10)


def config(num_steps: int = 12, **kwargs) -> TrainConfig:
    defaults = {
        "global_batch_size": 8,
        "optim": OptimConfig(lr=1e-2),
        "report_every_steps": 3,
        "checkpoint_every_steps": 4,
        "evaluate_every_steps": 5,
    }
    return TrainConfig(num_steps=num_steps, **defaults | kwargs)


def run(cfg: TrainConfig, shards: str, folder: Path, task=ToyTask, **kwargs) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    return train(cfg, task(shards, **kwargs), LocalContext(str(folder)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "toy.pt")


def wait_for_checkpoint(folder: Path, step: int) -> None:
    """Until it is whole and the only one: in this process the thread that stores it lives on."""
    deadline = time.monotonic() + 30
    path = folder / "checkpoints" / f"step-{step:09d}"
    while list(path.parent.glob("*")) != [path] or not is_whole(str(path)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class KilledError(Exception):
    """Stands for a process that dies."""


class DyingTask(ToyTask):
    """Dies in the forward pass of one step."""

    def __init__(self, shards: str, at_step: int) -> None:
        super().__init__(shards)
        self._inputs_left = at_step + 1

    def inputs(self, clips):
        self._inputs_left -= 1
        if self._inputs_left == 0:
            raise KilledError
        return super().inputs(clips)


def test_training_lowers_the_loss_and_exports(shards, tmp_path):
    metrics = run(config(40), shards, tmp_path)
    records = read_metrics(str(tmp_path))
    assert records[-1]["loss"] < records[0]["loss"] / 2
    assert metrics == json.loads((tmp_path / "toy.json").read_text())
    assert metrics["step"] == 40 and metrics["loss"] == records[-1]["loss"]
    assert {"lr", "grad_norm", "frame_loss", "windows_per_s", "data_wait_share"} <= metrics.keys()


def test_records_appear_when_something_is_due_and_at_the_end(shards, tmp_path):
    run(config(11), shards, tmp_path)
    records = read_metrics(str(tmp_path))
    assert [record["step"] for record in records] == [3, 4, 5, 6, 8, 9, 10, 11]
    evaluated = [record["step"] for record in records if "eval/weight_norm" in record]
    assert evaluated == [5, 10, 11]


@pytest.mark.parametrize("at_step", [5, 8, 11])
def test_a_killed_run_ends_as_if_it_had_not_been_killed(shards, tmp_path, at_step):
    cfg = config()
    run(cfg, shards, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(cfg, shards, tmp_path / "killed", DyingTask, at_step=at_step)
    last = at_step // 4 * 4
    wait_for_checkpoint(tmp_path / "killed", last)
    run(cfg, shards, tmp_path / "killed")
    steps = [record["step"] for record in read_metrics(str(tmp_path / "killed"))]
    assert steps == sorted(set(steps)) == [3, 4, 5, 6, 8, 9, 10, 12]
    whole = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "killed").items():
        assert torch.equal(value, whole[name]), name


def test_more_steps_continue_a_finished_run(shards, tmp_path):
    run(config(7), shards, tmp_path / "seven")
    run(config(12), shards, tmp_path / "seven")
    run(config(12), shards, tmp_path / "twelve")
    for name, value in weights(tmp_path / "seven").items():
        assert torch.equal(value, weights(tmp_path / "twelve")[name]), name


def test_a_finished_run_only_exports_again(shards, tmp_path):
    metrics = run(config(4), shards, tmp_path)
    (tmp_path / "toy.pt").unlink()
    assert run(config(4), shards, tmp_path) == metrics
    assert (tmp_path / "toy.pt").is_file()


def test_gradient_accumulation_does_not_change_the_gradient(shards, tmp_path):
    """Without noise in the module the mean over two halves is the mean over the whole."""

    class QuietTask(ToyTask):
        def __init__(self, shards: str) -> None:
            super().__init__(shards)
            self.module.forward = self.forward

        def forward(self, window) -> LossOutput:
            hidden = self.module.encoder(window.obs.flatten(1))
            loss = (self.module.head(hidden) - window.next_obs.flatten(1)).square().mean()
            return LossOutput(loss=loss)

    for rounds in (1, 2):
        cfg = config(gradient_accumulation=rounds)
        run(cfg, shards, tmp_path / str(rounds), QuietTask)
    for name, value in weights(tmp_path / "1").items():
        torch.testing.assert_close(value, weights(tmp_path / "2")[name], rtol=1e-3, atol=1e-4)


def test_the_learning_rate_follows_the_schedule(shards, tmp_path):
    optim = OptimConfig(lr=1.0, warmup_steps=2, decay="linear", max_grad_norm=1e-9)
    run(config(6, optim=optim, report_every_steps=1), shards, tmp_path)
    rates = [record["lr"] for record in read_metrics(str(tmp_path))]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(shards, tmp_path):
    class BrokenTask(ToyTask):
        def inputs(self, clips):
            self.step = getattr(self, "step", 0) + 1
            window = super().inputs(clips)
            if self.step == 7:
                window.obs.fill_(float("nan"))
            return window

    with pytest.raises(NonFiniteLossError, match="The loss of step 6 is not finite"):
        run(config(), shards, tmp_path, BrokenTask)
    wait_for_checkpoint(tmp_path, 4)


def test_two_streams_reach_the_task(shards, tmp_path):
    labeled = write_shard_set(tmp_path / "labeled", num_clips=3, has_labels=True, seed=1)
    seen = []

    class TwoStreams(ToyTask):
        def inputs(self, clips):
            seen.append({name: batch.frames.shape[0] for name, batch in clips.items()})
            assert clips["videos"].true_action is None
            assert clips["labeled"].true_action.shape[-1] == 2
            return super().inputs(clips)

    run(config(2), shards, tmp_path / "run", TwoStreams, labeled=labeled)
    assert seen == [{"videos": 4, "labeled": 2}] * 2


def test_a_batch_that_does_not_divide_is_an_error(shards, tmp_path):
    with pytest.raises(ValueError, match="global_batch_size 8 does not divide into 3 workers"):
        config(num_workers=3)
    with pytest.raises(ConfigError, match="The stream 'videos' takes 4 clips per step"):
        run(config(gradient_accumulation=8), shards, tmp_path)


def test_deepspeed_on_cpu_needs_no_compiler(shards, tmp_path):
    code = f"""
import torch
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from tests.toy_task import ToyTask
cfg = TrainConfig(num_steps=2, global_batch_size=8, engine=DeepSpeedConfig(zero_stage=2))
train(cfg, ToyTask({shards!r}), LocalContext({str(tmp_path)!r}))
"""
    env = os.environ | {"PATH": "/nowhere", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "toy.pt").is_file() and not (tmp_path / "extensions").exists()


@pytest.mark.parametrize("module", ["lafp.train.loop", "lafp.train.engines.ddp"])
def test_plain_training_does_not_load_deepspeed(module):
    code = f"import sys, {module}; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class UnmeasurableTask(ToyTask):
    """Has an evaluation that raises, and a metric that is NaN in every step."""

    def __init__(self, shards: str) -> None:
        super().__init__(shards)
        forward = self.module.forward

        def with_nan(window) -> LossOutput:
            out = forward(window)
            return LossOutput(loss=out.loss, metrics={"rank": torch.tensor(float("nan"))})

        self.module.forward = with_nan

    def evaluate(self, module) -> dict[str, float]:
        raise ArithmeticError("eigh did not converge")


def test_what_cannot_be_measured_is_noted_once_and_the_run_ends_well(shards, tmp_path):
    metrics = run(config(10), shards, tmp_path, UnmeasurableTask)
    assert metrics["step"] == 10 and "rank" not in metrics
    (note,) = read_notes(str(tmp_path))
    assert note["text"].startswith("evaluation: ArithmeticError: eigh did not converge.")


def test_every_json_that_a_run_writes_is_strict(shards, tmp_path):
    def refuse(token: str) -> None:
        raise AssertionError(token)

    run(config(10), shards, tmp_path, UnmeasurableTask)
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl")]
    assert {"metrics.jsonl", "starts.jsonl", "notes.jsonl", "rank-00000.json"} <= {
        path.name for path in files
    }
    for path in files:
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for text in texts:
            json.loads(text, parse_constant=refuse)


def test_a_decay_that_is_changed_in_the_middle_of_a_run_holds_from_there(shards, tmp_path):
    def trained(name: str, weight_decay: float) -> torch.Tensor:
        run(config(num_steps=8), shards, tmp_path / name)
        optim = OptimConfig(lr=1e-2, weight_decay=weight_decay)
        run(config(num_steps=12, optim=optim), shards, tmp_path / name)
        return torch.cat([w.flatten() for w in weights(tmp_path / name).values() if w.ndim > 1])

    assert trained("decayed", 20.0).norm() < 0.7 * trained("same", 0.0).norm()


def test_a_checkpoint_of_another_model_is_refused_in_one_line(shards, tmp_path):
    run(config(num_steps=4), shards, tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"does not fit the model of this config: .*size mismatch"
    ):
        run(config(num_steps=8), shards, tmp_path / "run", width=48)
