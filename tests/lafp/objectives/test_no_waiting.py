"""No training step of a latent action model makes the host wait for its device.

It needs no GPU: tensors on torch's device ``meta`` have shapes and no values, so whoever asks for
a value there fails, as whoever asks a GPU waits.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lafp.data.augment import AugmentConfig
from lafp.objectives.base import Objective
from lafp.train.optim import clip_gradients
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.train.tasks.trained_lam import LamInputs, TrainedLam
from lafp.types import ActionSpec, LossOutput, Window
from tests.lafp.objectives.test_masks import MASKED
from tests.lafp.objectives.test_objectives import CONFIGS, build

META = torch.device("meta")
BATCH_SIZE, SIZE_PX = 4, 24


class CopiesFromHost(TorchDispatchMode):
    """Notes copies from host memory to the device: each would wait for the device's queue."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_there = isinstance(out, Tensor) and out.device == META
        if is_there and any(isinstance(a, Tensor) and a.device != META for a in args):
            self.found.append(func)
        return out


def window_on_device() -> Window:
    obs, next_obs, future_obs = torch.zeros(3, BATCH_SIZE, 3, SIZE_PX, SIZE_PX, device=META)
    return Window(
        obs=obs,
        next_obs=next_obs,
        future_obs=future_obs,
        offset_steps=torch.ones(BATCH_SIZE, dtype=torch.int64, device=META),
        true_action=torch.zeros(BATCH_SIZE, 2, device=META),
        optical_flow=torch.zeros(BATCH_SIZE, 2, 6, 6, device=META),
        next_mask=torch.zeros(BATCH_SIZE, 1, SIZE_PX, SIZE_PX, device=META),
        future_mask=torch.zeros(BATCH_SIZE, 1, SIZE_PX, SIZE_PX, device=META),
    )


def lam_on_device(objective: Objective) -> TrainedLam:
    action = ActionSpec(dim=2, low=(-1.0, -2.0), high=(1.0, 2.0))
    return TrainedLam(objective, SupervisionConfig(weight=0.1), action).to(META)


def backward(module: nn.Module, inputs: object) -> None:
    """What the loop and its engines do on the device, but for the fused optimizer."""
    module(inputs).loss.backward()
    clip_gradients([p for p in module.parameters() if p.grad is not None], max_norm=1.0)
    module.zero_grad()
    module.after_step()


def copies_of_a_second(step: Callable[[], None]) -> list:
    """Copies to the device in the second of two steps: the first one leaves its constants there."""
    step()
    with CopiesFromHost() as copies:
        step()
    return copies.found


def step(lam: TrainedLam, window: Window) -> None:
    with torch.no_grad():
        window = lam.objective.augment(window)
    backward(lam, LamInputs(window=window, labeled=window))


@pytest.mark.parametrize("name", [*CONFIGS, *MASKED])
def test_a_step_asks_the_device_for_nothing_and_copies_nothing_to_it(name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta knows none
    cfg = CONFIGS.get(name) or MASKED[name]
    if name in ("laom", "laom-mask"):
        cfg = type(cfg)(**vars(cfg) | {"augment": AugmentConfig()})
    lam, window = lam_on_device(build(cfg)), window_on_device()
    assert copies_of_a_second(lambda: step(lam, window)) == []


class Asking(torch.nn.Module):
    """An objective with a flaw."""

    latent_action_dim = 2

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.layer, self.flaw = torch.nn.Linear(3, 2), flaw

    def augment(self, window):
        return window

    def infer_latent_action(self, obs, next_obs):
        latent = self.layer(obs.mean((2, 3)))
        if self.flaw == "asks":
            latent = latent / latent.norm().item()
        return latent * torch.tensor([1.0, 2.0], device=latent.device)

    def forward(self, window):
        return LossOutput(loss=self.infer_latent_action(window.obs, window.next_obs).mean())

    def after_step(self):
        pass


def test_this_test_would_notice():
    window = window_on_device()
    with pytest.raises(RuntimeError, match="meta"):
        step(lam_on_device(Asking("asks")), window)
    with CopiesFromHost() as copies:
        step(lam_on_device(Asking("copies")), window)
    assert copies.found
