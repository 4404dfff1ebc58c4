"""Two processes: codebooks keep values that bfloat16 cannot hold, in steps and checkpoints.

``test_lam_engines`` trains LAMs with codebooks under ZeRO-3, which does not take so small a module.
"""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lafp.models.bottlenecks.vq import Vq, VqConfig
from lafp.train.config import TrainConfig
from lafp.train.engines import ENGINES
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.types import LossOutput
from tests.process_group import group_of_two, run_two

CASES = {"ddp": DdpConfig()} | {f"zero{s}": DeepSpeedConfig(zero_stage=s) for s in (0, 1, 2)}
EXACT = 1 + 2**-20
"""bfloat16 makes 1 of it."""
Z = 8


class Quantized(nn.Module):
    """A layer whose output a codebook quantizes."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Linear(Z, Z)
        self.vq = Vq(VqConfig(num_codebooks=1, num_discrete_latents=2, num_codes=4), Z)
        for buffer in self.vq.buffers():
            buffer.fill_(value)

    def forward(self, inputs: torch.Tensor) -> LossOutput:
        out = self.vq(self.layer(inputs))
        return LossOutput(loss=out.loss + out.latent.float().square().mean(), metrics={})


def engine_of(name: str, value: float):
    cfg = TrainConfig(
        num_steps=1, global_batch_size=4, num_workers=2, precision="bf16", engine=CASES[name]
    )
    return ENGINES.get(cfg.engine.name)(cfg, Quantized(value), torch.device("cpu"))


def worker(rank: int, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for name in CASES:
            engine, folder = engine_of(name, EXACT), root / name
            found = {}
            with engine.gathered() as module:
                before = module.layer.weight.clone()
            engine.forward_backward(torch.randn(2, Z), is_last_round=True)
            engine.step(lr=0.1)
            with engine.gathered() as module:
                found["stepped"] = dict(module.vq.named_buffers())
                found["is_trained"] = not torch.equal(module.layer.weight, before)
            saved = root / f"{name}-{rank}"
            saved.mkdir()
            engine.save(saved, step=1)
            shutil.copytree(saved, folder, dirs_exist_ok=True)  # one folder with both ranks' files
            dist.barrier()
            restored = engine_of(name, 0.0)
            restored.load(folder)
            with restored.gathered() as module:
                found["restored"] = dict(module.vq.named_buffers())
            if rank == 0:
                torch.save(found, root / f"{name}.pt")
            dist.barrier()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exact_buffers")
    run_two(worker, root)
    return root


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("when", ["stepped", "restored"])
def test_codebooks_are_exact_after_a_bf16_step_and_in_its_checkpoint(runs, name, when):
    found = torch.load(runs / f"{name}.pt")
    assert found["is_trained"]
    assert len(found[when]) == 5
    for buffer in found[when].values():
        assert torch.equal(buffer, torch.full_like(buffer, EXACT, dtype=torch.float32))
