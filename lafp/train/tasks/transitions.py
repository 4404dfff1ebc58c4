"""Labeled transitions as a frozen LAM and a frozen policy see them."""

# Shape suffixes in this file: B clips, N transitions, E embedding, Z latent action.

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lafp.config import ConfigError
from lafp.data.windows import windows_at
from lafp.lam import Lam
from lafp.policies.base import Policy
from lafp.types import ClipBatch, Window


@dataclass(frozen=True)
class Transitions:
    """What the frozen models say about N transitions: the noise of the policy aside, all."""

    embedding: Tensor
    """The policy's h(o_t), float [N, E]."""
    idm_latent: Tensor
    """z_t of the LAM, float [N, Z]."""
    true_action: Tensor
    """float [N, A] in the environment's units, or int64 [N]."""

    def __getitem__(self, rows: Tensor) -> "Transitions":
        return Transitions(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.true_action)

    @staticmethod
    def cat(parts: Sequence["Transitions"]) -> "Transitions":
        """One after the other."""
        return Transitions(
            *(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Transitions))
        )


@torch.no_grad()
def transitions_of(window: Window, lam: Lam, policy: Policy) -> Transitions:
    """One transition per window, which must be labeled."""
    if window.true_action is None:
        raise ConfigError("Action decoders need labeled clips, got clips without actions.")
    latent_NZ = lam.label(window.obs, window.next_obs).float()
    return Transitions(policy.encode(window.obs).float(), latent_NZ, window.true_action)


def transitions_of_clip(batch: ClipBatch, b: int, lam: Lam, policy: Policy) -> Transitions:
    """Every transition of clip b that has a whole frame stack, in order."""
    frame_stack = policy.obs.frame_stack
    t_N = torch.arange(frame_stack - 1, int(batch.num_frames[b]) - 1)
    window = windows_at(batch, torch.full_like(t_N, b), t_N, torch.ones_like(t_N), frame_stack)
    return transitions_of(window, lam, policy)


def anchored_latents(
    policy: Policy, transitions: Transitions, anchor_range: tuple[float, float]
) -> Tensor:
    """What an action decoder is trained on: the policy's latents near the demonstrated ones.

    Args:
        policy: Draws from torch's default generator.
        transitions: N of them.
        anchor_range: Lowest and highest anchor time; between them it is drawn per transition.

    Returns:
        float32 [N, Z].
    """
    low, high = anchor_range
    embedding_NE = transitions.embedding
    anchor_time: float | Tensor = low
    if low < high:
        draws_N = torch.rand(len(embedding_NE), device=embedding_NE.device)
        anchor_time = low + (high - low) * draws_N
    return policy.anchored_on(embedding_NE, transitions.idm_latent, anchor_time)


def anchor_range(anchor_time: float | Sequence[float]) -> tuple[float, float]:
    """Lowest and highest of a single anchor time or of a range."""
    if isinstance(anchor_time, int | float):
        return float(anchor_time), float(anchor_time)
    low, high = anchor_time
    return low, high
