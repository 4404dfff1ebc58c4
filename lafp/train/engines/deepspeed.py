"""Trains with DeepSpeed ZeRO, which shards optimizer state, gradients and parameters."""

import contextlib
import copy
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.ranks import rank, world_size
from lafp.storage import strict_json
from lafp.train.engines.base import (
    Engine,
    EngineSettings,
    autocast,
    loading,
    nan_gradients_unless_finite,
    ungathered,
)
from lafp.train.engines.deepspeed_files import read
from lafp.train.engines.reshard import load_resharded
from lafp.train.optim import build_optimizer, clip_gradients, skip_unless_finite
from lafp.types import LossOutput

TAG = "deepspeed"
CARD = "deepspeed.json"


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    """ZeRO (Rajbhandari et al., 2020) over fp32 weights."""

    name: str = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """Says what is sharded over the workers: nothing at 0, the optimizer state from 1 on, also the
    gradients from 2 on, also the parameters at 3."""
    offload_optimizer: bool = False
    """ZeRO-Offload (Ren et al., 2021) keeps the optimizer's state in host memory and runs its step
    on the CPU, with ``OMP_NUM_THREADS`` threads. It serves models whose optimizer state does not
    fit on the GPU, and needs ``zero_stage`` 1 or more."""

    def __post_init__(self) -> None:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer needs zero_stage 1, 2 or 3, got 0, where every worker keeps the "
                "whole optimizer on its device."
            )


class DeepSpeedEngine(Engine):
    """See ``Engine``. A checkpoint fits any number of workers."""

    Config = DeepSpeedConfig

    def __init__(
        self, cfg: EngineSettings[DeepSpeedConfig], module: nn.Module, device: torch.device
    ) -> None:
        self.cfg, self.device = cfg, device
        self.stage = cfg.engine.zero_stage
        self.module = module.to(device)
        self._copy = None
        if self.stage == 3 and rank() == 0:
            # Parameters are gathered into a plain copy, because ZeRO-3's hooks would make every
            # forward pass of the module a collective call.
            self._copy = copy.deepcopy(module).cpu()
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        deepspeed = _import_deepspeed(device)
        self._adamw = build_optimizer(self.module, cfg.optim)
        self._engine, *_ = deepspeed.initialize(
            model=_Autocast(self.module, cfg, device),
            optimizer=self._adamw,
            config=self._deepspeed_config(),
        )
        # DeepSpeed's own function unpickles files, which could run code.
        self._engine.checkpoint_engine.load = read

    def _deepspeed_config(self) -> dict[str, object]:
        num_parameters = sum(p.numel() for p in self.module.parameters())
        # DeepSpeed allocates whole buckets, and wants them aligned. Its default of 500,000,000
        # numbers would take 2 GB for a small model.
        bucket = min(500_000_000, -(-num_parameters // 1024) * 1024)
        offload: dict[str, object] = {}
        if self.cfg.engine.offload_optimizer:
            pinned = self.device.type == "cuda"
            offload = {"offload_optimizer": {"device": "cpu", "pin_memory": pinned}}
        return {
            # torch's fused AdamW is as fast on a CPU, and needs no compiling.
            "zero_force_ds_cpu_optimizer": False,
            "train_micro_batch_size_per_gpu": self.cfg.micro_batch_size,
            "gradient_accumulation_steps": self.cfg.gradient_accumulation,
            # DeepSpeed does not report the norm at stage 0, so there ``step`` clips the gradients.
            "gradient_clipping": (self.cfg.optim.max_grad_norm or 0.0) if self.stage else 0.0,
            # DeepSpeed would print lines of its own between those of the run.
            "steps_per_print": sys.maxsize,
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": self.device.type == "cuda",
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
                **offload,
            },
        }

    def forward_backward(self, inputs: object, is_last_round: bool) -> LossOutput:
        """See ``Engine``."""
        out: LossOutput = self._engine(inputs)
        # DeepSpeed divides the loss by the number of rounds.
        self._engine.backward(nan_gradients_unless_finite(out.loss))
        if not is_last_round:
            self._engine.step()  # only counts the round
        return LossOutput(loss=out.loss.detach(), metrics=out.metrics)

    def step(self, lr: float) -> Tensor:
        """See ``Engine``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self.stage == 0:
            norm: Any = clip_gradients(self._parameters, self.cfg.optim.max_grad_norm)
            skip_unless_finite(self._adamw, norm)
            self._engine.step()
        else:  # ZeRO skips the step if gradients are not finite, and reports an infinite norm
            self._engine.step()
            norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(norm, device=self.device)

    def gathered(self) -> AbstractContextManager[nn.Module]:
        """See ``Engine``."""
        return self._gathered_copy() if self.stage == 3 else ungathered(self.module)

    @contextmanager
    def _gathered_copy(self) -> Iterator[nn.Module]:
        """Implements ``gathered`` for ZeRO-3, where rank 0 gets a copy of the module."""
        import deepspeed

        # Ranks without a copy gather too, because gathering is a collective call.
        mine = [None] * len(list(self.module.parameters()))
        copies = list(self._copy.parameters()) if self._copy else mine
        with torch.no_grad():
            for parameter, whole_copy in zip(self.module.parameters(), copies, strict=True):
                # Parameters are gathered one by one, so that memory holds one more, not all.
                with deepspeed.zero.GatheredParameters([parameter]):
                    if whole_copy is not None:
                        whole_copy.copy_(parameter)
            if self._copy:
                for buffer, copied in zip(self.module.buffers(), self._copy.buffers(), strict=True):
                    copied.copy_(buffer)
        yield self._copy.to(self.device) if self._copy else self.module
        if self._copy:
            self._copy.cpu()

    def save(self, folder: Path, step: int) -> None:
        """See ``Engine``."""
        (folder / TAG).mkdir()  # DeepSpeed makes the folder on rank 0 only
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
        if rank() == 0:
            card = {"step": step, "world_size": world_size(), "zero_stage": self.stage}
            (folder / CARD).write_text(strict_json.dumps(card))

    def load(self, folder: Path) -> int:
        """See ``Engine``."""
        if not (folder / CARD).is_file():
            raise ConfigError(
                "The checkpoint was not written by engine deepspeed. Resume with the engine that "
                "wrote it, or use another --run-name."
            )
        card = json.loads((folder / CARD).read_text())
        with loading(self._engine.optimizer):
            if self.stage == 0 or card["world_size"] == world_size():
                # DeepSpeed itself loads a sharded checkpoint only with as many workers as wrote it.
                self._engine.load_checkpoint(str(folder), tag=TAG)
            else:
                load_resharded(self._engine, folder / TAG, card["world_size"])
        return card["step"]


class _Autocast(nn.Module):
    """Runs the module under autocast, because DeepSpeed disables autocast entered outside of it."""

    def __init__(
        self, module: nn.Module, cfg: EngineSettings[object], device: torch.device
    ) -> None:
        super().__init__()
        self.module = module
        self._cfg, self._device = cfg, device

    def forward(self, inputs: object) -> LossOutput:
        with autocast(self._cfg, self._device):
            return self.module(inputs)


def _import_deepspeed(device: torch.device) -> Any:
    """Imports DeepSpeed for ``device``, quietly, with a process group even for one process."""
    # Otherwise DeepSpeed would take a GPU that the run does not use.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if device.type == "cpu":
        # The op speeds up all_reduce in tensor-parallel inference. Training never calls it, and
        # compiling it would cost every new machine a minute and a C++ compiler. The attribute
        # `deepspeed.comm.torch` is torch itself, hence by name.
        communication: Any = importlib.import_module("deepspeed.comm.torch")
        communication.build_shm_op = lambda: None
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        # A store in memory, because one process needs no port.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    with contextlib.redirect_stdout(sys.stderr):
        deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed
