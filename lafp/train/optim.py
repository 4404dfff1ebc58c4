"""Defines AdamW and its learning rate, which is a pure function of the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lafp.config.ranges import check_at_least, check_positive


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Configures AdamW with linear warm-up. With ``weight_decay: 0`` it is Adam."""

    lr: float = 3e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Applied to parameters with two or more dimensions only."""
    warmup_steps: int = 0
    """Steps of linear growth from 0 to ``lr``."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of ``lr`` after the warm-up."""
    final_share: float = 0.0
    """Share of ``lr`` that ``linear`` and ``cosine`` reach at ``num_steps``."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this global norm; null leaves them alone."""

    def __post_init__(self) -> None:
        check_positive(self, "lr", "eps")
        check_at_least(self, 0, "weight_decay", "warmup_steps")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share must lie in [0, 1], got {self.final_share}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive or null, got {self.max_grad_norm}.")


def learning_rate(cfg: OptimConfig, step: int, num_steps: int) -> float:
    """Returns the learning rate of one optimizer step.

    Args:
        cfg: Peak, warm-up and decay.
        step: Steps done before this one, from 0.
        num_steps: Steps of the whole run, at which ``linear`` and ``cosine`` end.

    Returns:
        ``lr (step + 1) / warmup_steps`` during the warm-up. After it, ``lr`` times the decay, a
        function of the share of the steps after the warm-up that is done; the first of them runs at
        the peak.
    """
    if step < cfg.warmup_steps:
        # Step 0 has a rate above 0, or it would change nothing.
        return cfg.lr * (step + 1) / cfg.warmup_steps
    done = (step - cfg.warmup_steps) / max(1, num_steps - cfg.warmup_steps)
    if cfg.decay == "linear":
        left = max(0.0, 1 - done)
    elif cfg.decay == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        return cfg.lr
    return cfg.lr * (cfg.final_share + (1 - cfg.final_share) * left)


def build_optimizer(module: nn.Module, cfg: OptimConfig) -> torch.optim.AdamW:
    """Builds AdamW over the trained parameters. Biases, scales and other vectors do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=cfg.lr,
        betas=cfg.betas,
        eps=cfg.eps,
        # Only the fused optimizer looks at the flag that `skip_unless_finite` sets.
        fused=True,
    )


def skip_unless_finite(optimizer: torch.optim.AdamW, grad_norm: Tensor) -> None:
    """Makes the next step leave weights and moments unchanged if the gradients are not finite.

    The fused optimizer checks a flag on the device, which torch added for gradient scalers, so the
    host does not wait.
    """
    optimizer.found_inf = (~torch.isfinite(grad_norm)).float()  # type: ignore[attr-defined]


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scales gradients in place to a global norm of at most ``max_norm``.

    Returns:
        The norm before scaling, on the gradients' device.
    """
    # Computed without a limit too: it is reported, and it shows steps that are not finite.
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
