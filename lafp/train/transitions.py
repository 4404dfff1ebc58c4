"""Computes embeddings and latent actions of labeled transitions with a frozen LAM and policy."""

# Shape suffixes in this file: B clips, N transitions, M some of them, E embedding, Z latent action,
# H steps of a chunk.

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from lafp.config import ConfigError
from lafp.data.windows import following_steps, vector_inputs, windows_at
from lafp.flow_matching.solver import StepsTaken
from lafp.lam import Lam
from lafp.policies.base import Policy, step_of_chunk
from lafp.types import ClipBatch, Window

Rows = TypeVar("Rows", "Transitions", "ClipFeatures")

_TRANSITIONS_AT_A_TIME = 128
"""A clip may be a minute long, and the activations of all of its frames may not fit a GPU."""


@dataclass(frozen=True)
class Transitions:
    """Holds all outputs of the frozen models for N transitions that do not depend on noise.

    A policy that executes e steps of a chunk meets transition t at any position p < e of a chunk
    that was made at t - p. Decoders are trained on, and measured at, all of these positions.
    """

    embedding: Tensor
    """The policy's h(o_t), float [N, E]."""
    chunk_embedding: Tensor
    """h(o_{t-p}) of the frame at which the chunk was made, float [N, E]."""
    idm_chunk: Tensor
    """z_{t-p} .. z_{t-p+H-1} of the LAM, float [N, H, Z]; past its clip the last z repeats."""
    position: Tensor
    """p, int64 [N]."""
    true_action: Tensor
    """float [N, A] in the environment's units, or int64 [N]."""

    @property
    def idm_latent(self) -> Tensor:
        """Returns z_t of the LAM, float [N, Z]."""
        return step_of_chunk(self.idm_chunk, self.position)

    def __getitem__(self, rows: Tensor) -> "Transitions":
        return Transitions(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.true_action)

    @staticmethod
    def cat(parts: Sequence["Transitions"]) -> "Transitions":
        """Concatenates transitions."""
        return _cat(parts)


@dataclass(frozen=True)
class ClipFeatures:
    """Holds the T transitions of one clip that have a whole frame stack, in order."""

    embedding: Tensor
    """float [T, E]."""
    idm_latent: Tensor
    """float [T, Z]."""
    true_action: Tensor
    """float [T, A] or int64 [T]."""

    def __len__(self) -> int:
        return len(self.true_action)

    def at(self, rows: Tensor, position: Tensor, chunk_steps: int) -> Transitions:
        """Returns transitions ``rows`` at the given positions of their chunks, both int64 [N]."""
        start_N = rows - position
        ahead_H = torch.arange(chunk_steps, device=rows.device)
        chunk_NH = (start_N[:, None] + ahead_H).clamp(max=len(self) - 1)
        return Transitions(
            embedding=self.embedding[rows],
            chunk_embedding=self.embedding[start_N],
            idm_chunk=self.idm_latent[chunk_NH],
            position=position,
            true_action=self.true_action[rows],
        )


@torch.no_grad()
def features_of_clip(batch: ClipBatch, b: int, lam: Lam, policy: Policy) -> ClipFeatures:
    """Runs the frozen models on all of clip b, on some of its transitions at a time."""
    frame_stack = policy.obs.frame_stack
    # The last frame begins no transition, because no frame follows it.
    t_N = torch.arange(frame_stack - 1, int(batch.num_frames[b]) - 1)
    parts = []
    for t_M in t_N.split(_TRANSITIONS_AT_A_TIME):
        window = windows_at(batch, torch.full_like(t_M, b), t_M, torch.ones_like(t_M), frame_stack)
        embedding_ME = policy.encode(window.obs, vector_inputs(window, policy.obs)).float()
        latent_MZ = lam.infer_latent_action(window.obs, window.next_obs).float()
        parts.append(ClipFeatures(embedding_ME, latent_MZ, _true_action(window)))
    return _cat(parts)


def transitions_of_clip(batch: ClipBatch, b: int, lam: Lam, policy: Policy) -> Transitions:
    """Returns every transition of clip b, with chunks made from its start on, as in deployment."""
    features = features_of_clip(batch, b, lam, policy)
    rows_N = torch.arange(len(features), device=features.embedding.device)
    return features.at(rows_N, rows_N % policy.cfg.execute_steps, policy.cfg.chunk_steps)


@torch.no_grad()
def transitions_at(
    batch: ClipBatch, clip_N: Tensor, t_N: Tensor, position_N: Tensor, lam: Lam, policy: Policy
) -> Transitions:
    """Computes what ``ClipFeatures.at`` returns, but runs the models only on the needed frames.

    Args:
        batch: B labeled clips.
        clip_N: Clip of each transition, int64 [N] on the host.
        t_N: Frame of each transition, int64 [N] on the host.
        position_N: p, int64 [N] on the host.
        lam: The LAM, on the device of the clips.
        policy: The policy, on the device of the clips.
    """
    frame_stack = policy.obs.frame_stack
    now = windows_at(batch, clip_N, t_N, torch.ones_like(t_N), frame_stack)
    embedding_NE = policy.encode(now.obs, vector_inputs(now, policy.obs)).float()
    plan_embedding_NE, latents = embedding_NE, []
    at_NH, _ = following_steps(batch, clip_N, t_N - position_N, policy.cfg.chunk_steps)
    for i, at_N in enumerate(at_NH.unbind(1)):
        window = windows_at(batch, clip_N, at_N, torch.ones_like(at_N), frame_stack)
        if i == 0 and policy.cfg.execute_steps > 1:
            plan_embedding_NE = policy.encode(window.obs, vector_inputs(window, policy.obs)).float()
        latents.append(lam.infer_latent_action(window.obs, window.next_obs).float())
    return Transitions(
        embedding=embedding_NE,
        chunk_embedding=plan_embedding_NE,
        idm_chunk=torch.stack(latents, dim=1),
        position=position_N.to(embedding_NE.device),
        true_action=_true_action(now),
    )


def anchored_latents(
    policy: Policy,
    transitions: Transitions,
    anchor_range: tuple[float, float],
    steps_taken: StepsTaken,
) -> Tensor:
    """Samples the policy's latents near the demonstrated ones, to train an action decoder.

    Chunks are anchored whole, and each transition takes the latent at its position.

    Args:
        policy: The policy, which draws from torch's default generator.
        transitions: N transitions.
        anchor_range: Lowest and highest anchor time. Each transition draws one between them.
        steps_taken: Steps of the policy's solver from the anchor time on.

    Returns:
        float32 [N, Z].
    """
    low, high = anchor_range
    embedding_NE = transitions.chunk_embedding
    anchor_time: float | Tensor = low
    if low < high:
        draws_N = torch.rand(len(embedding_NE), device=embedding_NE.device)
        anchor_time = low + (high - low) * draws_N
    is_chunk = policy.cfg.chunk_steps > 1
    demonstrated = transitions.idm_chunk if is_chunk else transitions.idm_chunk[:, 0]
    anchored = policy.anchored_from_embedding(
        embedding_NE, demonstrated, anchor_time, steps_taken=steps_taken
    )
    return step_of_chunk(anchored, transitions.position) if is_chunk else anchored


def deployed_latents(policy: Policy, transitions: Transitions) -> Tensor:
    """Samples the policy's own latents from fresh noise, as in deployment: float32 [N, Z]."""
    chunk, _ = policy.chunk_from_embedding(transitions.chunk_embedding, None)
    return chunk if policy.cfg.chunk_steps == 1 else step_of_chunk(chunk, transitions.position)


def anchor_range(anchor_time: float | Sequence[float]) -> tuple[float, float]:
    """Returns the lowest and highest value of a single anchor time or of a range."""
    if isinstance(anchor_time, int | float):
        return float(anchor_time), float(anchor_time)
    low, high = anchor_time
    return low, high


def _cat(parts: Sequence[Rows]) -> Rows:
    """Concatenates every field of several of the records above."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(kind)))


def _true_action(window: Window) -> Tensor:
    if window.true_action is None:
        raise ConfigError("Action decoders need labeled clips, got clips without actions.")
    return window.true_action
