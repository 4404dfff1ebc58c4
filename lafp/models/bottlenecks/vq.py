"""Vector quantization: each discrete latent is replaced by its nearest code."""

# Shape suffixes in this file: B batch, Z latent action, N codebooks, K codes, D code dimension,
# P positions (B x discrete latents per codebook).

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lafp.config.ranges import check_at_least
from lafp.models.bottlenecks.base import Bottleneck, BottleneckOutput
from lafp.models.codebook_usage import usage_of_counts
from lafp.models.exact_buffers import ExactBuffers
from lafp.ranks import rank, world_size

_LEAST_WEIGHT = 1e-30
"""Smallest weight with which a code is computed. Below it, the code's sum has too few digits in
float32."""


@dataclass(frozen=True, kw_only=True)
class VqConfig:
    """Vector quantization with EMA codebooks, as in LAPO (arXiv:2312.10812)."""

    name: str = "vq"
    num_codebooks: int = 2
    num_discrete_latents: int = 4
    """Number per codebook. Codes have Z / (codebooks x discrete latents) dimensions (LAPO: 16)."""
    num_codes: int = 64
    """Number of codes per codebook."""
    commitment_weight: float = 0.05
    """Weight of the loss that pulls latents towards their codes. LAPO has 0.05 beside a loss of
    pixels that span half of our range, as 0.2 is here."""
    decay: float = 0.999
    """Decay of the codebooks' moving averages, per optimizer step."""
    revive_after_steps: int = 100
    """A code that no latent has chosen for this many steps is replaced by a latent of the batch."""

    def __post_init__(self) -> None:
        check_at_least(
            self, 1, "num_codebooks", "num_discrete_latents", "num_codes", "revive_after_steps"
        )
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}.")
        check_at_least(self, 0, "commitment_weight")

    def check(self, latent_action_dim: int) -> None:
        """See ``NoBottleneckConfig.check``."""
        num_latents = self.num_codebooks * self.num_discrete_latents
        if latent_action_dim % num_latents:
            raise ValueError(
                f"latent_action_dim must be a multiple of the number of discrete latents "
                f"({num_latents}), got {latent_action_dim}."
            )


class Vq(ExactBuffers, Bottleneck):
    """Replaces each discrete latent by its nearest code. Codes are averages of their latents.

        count <- decay * count + (1 - decay) * n,    sum <- decay * sum + (1 - decay) * sum(z)
        code = sum / count

    n is the number of latents that chose the code, and sum(z) is their sum. Forward passes collect
    both; ``after_step`` adds them up over ranks and moves the codes. So codebooks depend neither on
    gradient accumulation nor on the number of workers, and no forward pass communicates. The first
    step sets all codes to latents of its batch. LAPO instead starts from uniform noise, updates in
    every forward pass, and does not replace unused codes.

    The buffers stay in float32 whatever the model is cast to: at decay 0.999 a step changes an
    average by less than bfloat16 can tell apart.
    """

    Config = VqConfig
    codebook: Tensor
    ema_count: Tensor
    ema_sum: Tensor
    steps_unused: Tensor
    num_updates: Tensor

    def __init__(self, cfg: VqConfig, latent_action_dim: int) -> None:
        super().__init__()
        cfg.check(latent_action_dim)
        num_latents = cfg.num_codebooks * cfg.num_discrete_latents
        self.cfg = cfg
        shape = (cfg.num_codebooks, cfg.num_codes)
        # On the device "meta", where configs are checked, torch.randn would import sympy.
        codebook = torch.randn(*shape, latent_action_dim // num_latents, device="cpu")
        codebook = codebook.to(torch.get_default_device())
        self.register_buffer("codebook", codebook)
        self.register_buffer("ema_count", torch.zeros(shape))
        self.register_buffer("ema_sum", torch.zeros(codebook.shape))
        self.register_buffer("steps_unused", torch.zeros(shape))
        self.register_buffer("num_updates", torch.zeros(()))
        # Not a buffer: DDP would overwrite every rank's statistics with those of rank 0.
        self._collected: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, latent_BZ: Tensor) -> BottleneckOutput:
        """Replaces each discrete latent by its nearest code."""
        latent_NPD = self._split(latent_BZ)
        with torch.no_grad(), torch.autocast(latent_BZ.device.type, enabled=False):
            values_NPD = latent_NPD.float()
            squared_norm_N1K = self.codebook.square().sum(-1)[:, None]
            # The squared norm of a latent is left out, because it is the same for all codes.
            distance_NPK = squared_norm_N1K - 2 * values_NPD @ self.codebook.transpose(1, 2)
            indices_NP = distance_NPK.argmin(-1)
            codes_NPD = self.codebook.gather(1, indices_NP[..., None].expand_as(values_NPD))
            counts_NK = self._collect(values_NPD, indices_NP)
        codes_BZ = self._join(codes_NPD.to(latent_BZ.dtype), len(latent_BZ))
        return BottleneckOutput(
            # The value is the code's, and the gradient passes straight through to the latent.
            latent=latent_BZ + (codes_BZ - latent_BZ).detach(),
            loss=self.cfg.commitment_weight * F.mse_loss(latent_BZ.float(), codes_BZ.float()),
            metrics=usage_of_counts(counts_NK),
        )

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the codes towards the latents of this step. All ranks must call it."""
        if self._collected is None:
            return
        counts_NK, sums_NKD, candidates_NKD = self._collected
        self._collected = None
        if world_size() > 1:
            # One message for all three: other ranks send zeros, so that the sum of the candidates
            # is rank 0's candidates.
            candidates_NKD = candidates_NKD * (rank() == 0)
            message = torch.cat([t.flatten() for t in (counts_NK, sums_NKD, candidates_NKD)])
            dist.all_reduce(message)
            sizes = [counts_NK.numel(), sums_NKD.numel(), candidates_NKD.numel()]
            counts, sums, candidates = message.split(sizes)
            counts_NK, sums_NKD = counts.view_as(counts_NK), sums.view_as(sums_NKD)
            candidates_NKD = candidates.view_as(candidates_NKD)
        self._move_codes(counts_NK, sums_NKD, candidates_NKD)

    def discard_step(self) -> None:
        """Drops the statistics of the step, whose latents may be NaN."""
        self._collected = None

    def _move_codes(self, counts_NK: Tensor, sums_NKD: Tensor, candidates_NKD: Tensor) -> None:
        """Updates the averages by the sums of all ranks, and replaces codes that are not chosen."""
        decay = self.cfg.decay
        self.ema_count.lerp_(counts_NK, 1 - decay)
        self.ema_sum.lerp_(sums_NKD, 1 - decay)
        self.steps_unused.add_(1).mul_(counts_NK == 0)
        is_first = self.num_updates == 0
        is_dead_NK = (self.steps_unused >= self.cfg.revive_after_steps) | is_first
        # A new code gets the weight of one average step, so that it still moves quickly.
        fresh_count = (1 - decay) * counts_NK.mean()
        self.ema_count.copy_(torch.where(is_dead_NK, fresh_count, self.ema_count))
        self.ema_sum.copy_(
            torch.where(is_dead_NK[..., None], candidates_NKD * fresh_count, self.ema_sum)
        )
        self.steps_unused.mul_(~is_dead_NK)
        self.num_updates.add_(1)
        # The weight of a code that is never chosen falls to 0 (at decay 0 after one step). Such a
        # code keeps its value until it is chosen or replaced, because 0 / 0 would make it NaN.
        has_weight_NK1 = self.ema_count[..., None] > _LEAST_WEIGHT
        self.codebook.copy_(
            torch.where(has_weight_NK1, self.ema_sum / self.ema_count[..., None], self.codebook)
        )

    def _collect(self, values_NPD: Tensor, indices_NP: Tensor) -> Tensor:
        """Adds a forward pass to the statistics of the step. Returns the pass's counts [N, K]."""
        one_hot_NPK = F.one_hot(indices_NP, self.cfg.num_codes).to(values_NPD.dtype)
        counts_NK = one_hot_NPK.sum(1)
        if self.training:
            sums_NKD = one_hot_NPK.transpose(1, 2) @ values_NPD
            shape = (len(values_NPD), self.cfg.num_codes)
            chosen_NK = torch.randint(values_NPD.shape[1], shape, device=values_NPD.device)
            index_NKD = chosen_NK[..., None].expand(-1, -1, values_NPD.shape[-1])
            candidates_NKD = values_NPD.gather(1, index_NKD)
            if self._collected is None:
                self._collected = counts_NK, sums_NKD, candidates_NKD
            else:
                # The first pass's candidates stay: with supervision it is that of the videos, which
                # the commitment loss trains, and the second that of the labeled windows.
                counts, sums, candidates = self._collected
                self._collected = counts + counts_NK, sums + sums_NKD, candidates
        return counts_NK

    def _split(self, latent_BZ: Tensor) -> Tensor:
        shape = (self.cfg.num_codebooks, self.cfg.num_discrete_latents, self.codebook.shape[-1])
        return latent_BZ.unflatten(1, shape).transpose(0, 1).flatten(1, 2)

    def _join(self, codes_NPD: Tensor, batch_size: int) -> Tensor:
        return codes_NPD.unflatten(1, (batch_size, -1)).transpose(0, 1).flatten(1)
