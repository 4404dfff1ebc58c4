"""Checkpoints of DeepSpeed that hold code: it does not run, and honest ones are loaded."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from lafp.config import ConfigError
from lafp.train.config import TrainConfig
from lafp.train.engines.deepspeed import TAG, DeepSpeedConfig, DeepSpeedEngine
from lafp.train.engines.deepspeed_files import read
from lafp.train.engines.reshard import load_resharded
from lafp.types import LossOutput


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.frozen = nn.Linear(4, 8), nn.Linear(8, 2).requires_grad_(False)
        self.register_buffer("mean", torch.ones(3))

    def forward(self, inputs):
        return LossOutput(loss=self.frozen(self.body(inputs)).square().mean(), metrics={})


class Payload:
    """Makes a file when it is unpickled, as a stranger's code would do worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def engine(zero_stage: int) -> DeepSpeedEngine:
    torch.manual_seed(zero_stage)
    cfg = TrainConfig(
        num_steps=10, global_batch_size=2, engine=DeepSpeedConfig(zero_stage=zero_stage)
    )
    return DeepSpeedEngine(cfg, Toy(), torch.device("cpu"))


def weights(made: DeepSpeedEngine) -> list[torch.Tensor]:
    with made.gathered() as module:
        return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_checkpoint_with_code_is_refused_and_an_honest_one_is_loaded(tmp_path, zero_stage):
    trained = engine(zero_stage)
    trained.forward_backward(torch.ones(2, 4), True)
    trained.step(0.1)
    trained.save(tmp_path, 7)
    files = sorted((tmp_path / TAG).glob("*.pt"))
    assert len(files) == 1 + bool(zero_stage)
    fresh = engine(zero_stage)
    with torch.no_grad():
        fresh.module.mean.zero_()
    assert fresh.load(tmp_path) == 7
    torch.testing.assert_close(weights(fresh), weights(trained), rtol=0, atol=0)
    for file in files:
        honest, mark = file.read_bytes(), tmp_path / "code ran"
        torch.save(torch.load(file, weights_only=False) | {"more": Payload(mark)}, file)
        with pytest.raises(ConfigError, match=r"holds more than the numbers of a checkpoint"):
            engine(zero_stage).load(tmp_path)
        if zero_stage:
            with pytest.raises(ConfigError, match=r"holds more than the numbers of a checkpoint"):
                load_resharded(engine(zero_stage)._engine, tmp_path / TAG, 1)
        assert not mark.exists()
        torch.load(file, weights_only=False)
        assert mark.is_dir(), "unpickling runs it"
        mark.rmdir()
        file.write_bytes(honest)


def test_a_class_that_deepspeed_does_not_store_is_refused(tmp_path):
    torch.save({"module": Path("/etc/passwd")}, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x\.pt holds more than the numbers"):
        read(tmp_path / "x.pt")
