"""Trains with plain data parallelism: torch DDP, or the bare module in one process."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.ranks import rank, world_size
from lafp.train.engines.base import (
    Engine,
    EngineSettings,
    autocast,
    loading,
    nan_gradients_unless_finite,
    ungathered,
)
from lafp.train.optim import build_optimizer, clip_gradients, skip_unless_finite
from lafp.types import LossOutput

FILE = "ddp.pt"


@dataclass(frozen=True, kw_only=True)
class DdpConfig:
    """Every worker holds the whole model."""

    name: str = "ddp"


class DdpEngine(Engine):
    """See ``Engine``. Rank 0 writes the checkpoint, which fits any number of workers."""

    Config = DdpConfig

    def __init__(
        self, cfg: EngineSettings[DdpConfig], module: nn.Module, device: torch.device
    ) -> None:
        self.cfg, self.device = cfg, device
        self.module = module.to(device)
        self._optimizer = build_optimizer(self.module, cfg.optim)
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        self._wrapped: nn.Module = self.module
        if world_size() > 1:
            # The module itself reduces its buffers (codebooks, running statistics) where it must.
            # Broadcasting them in every forward pass would cost more. Gradients are views into
            # DDP's buckets, because copies would take the memory of all gradients once more.
            self._wrapped = nn.parallel.DistributedDataParallel(
                self.module, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def forward_backward(self, inputs: object, is_last_round: bool) -> LossOutput:
        """See ``Engine``."""
        is_wrapped = self._wrapped is not self.module
        # Gradients of all rounds add up locally, and are exchanged once, in the last backward pass.
        with self._wrapped.no_sync() if is_wrapped and not is_last_round else nullcontext():  # type: ignore[operator]
            with autocast(self.cfg, self.device):
                out = self._wrapped(inputs)
            loss = nan_gradients_unless_finite(out.loss)
            # Gradients of the rounds add up, and their mean is wanted.
            (loss / self.cfg.gradient_accumulation).backward()
        return LossOutput(loss=out.loss.detach(), metrics=out.metrics)

    def step(self, lr: float) -> Tensor:
        """See ``Engine``."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = clip_gradients(self._parameters, self.cfg.optim.max_grad_norm)
        skip_unless_finite(self._optimizer, norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def gathered(self) -> AbstractContextManager[nn.Module]:
        """See ``Engine``."""
        return ungathered(self.module)

    def save(self, folder: Path, step: int) -> None:
        """See ``Engine``."""
        if rank() > 0:
            return
        state = {
            "step": step,
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> int:
        """See ``Engine``."""
        if not (folder / FILE).is_file():
            raise ConfigError(
                "The checkpoint was not written by engine ddp. Resume with the engine that wrote "
                "it, or use another --run-name."
            )
        # Only weights: an unpickled file could run code of whoever can write to the storage.
        state = torch.load(folder / FILE, map_location=self.device, weights_only=True)
        with loading(self._optimizer):
            self.module.load_state_dict(state["module"])
            self._optimizer.load_state_dict(state["optimizer"])
        return state["step"]
