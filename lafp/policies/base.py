"""The interface of policies: a loss over (observation, latent action), and acting."""

# Shape suffixes in this file: B batch, E embedding, Z latent action, H steps of a chunk, D point,
# V vectors beside the image.

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lafp.config import Choice, choice
from lafp.flow_matching.solver import StepsTaken
from lafp.models import ENCODERS, LATENT_PROJECTIONS, LATENT_STANDARDIZERS
from lafp.models.latent_projection import NoProjectionConfig
from lafp.models.standardizer import LatentStandardizer, StdConfig
from lafp.types import LossOutput, ObsSpec, PolicyState

NoiseSource = torch.Generator | Tensor
"""Source of a policy's noise: a generator on any device, or the noise itself, float32
[B, noise_dim]. If the noise is passed as a tensor, a step is a pure function of tensors, which can
be compiled and exported."""


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """Vectors that a policy reads besides the image."""

    state: bool = False
    """Read the robot's state (proprioception). The shards must have it."""
    condition: bool = False
    """Read the goal of the episode, one vector per episode: a task id (one-hot), or the embedding
    of a text or of a goal image. The shards must have it."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings that all policies share, so that comparisons between them are fair."""

    name: str
    encoder: Choice = choice(ENCODERS)
    hidden_dims: tuple[int, ...] = (256, 256)
    """Widths of the head's hidden layers."""
    latent_projection: Choice = choice(LATENT_PROJECTIONS, default=NoProjectionConfig())
    """``{name: pca, dim: 64}`` predicts only the leading components of a wide latent action."""
    standardizer: Choice = choice(LATENT_STANDARDIZERS, default=StdConfig())
    """Units of the projected latent actions: ``std`` gives each dimension unit variance, ``global``
    divides all by one number, ``range`` is LAFP's and centres on the middle of the range."""
    chunk_steps: int = 1
    """H, number of latent actions that are predicted at a time, z_t .. z_{t+H-1}."""
    execute_steps: int = 1
    """Number of steps of a chunk that are executed before the next chunk replaces it (receding
    horizon)."""

    inputs: InputsConfig = InputsConfig()
    """``{state: true, condition: true}`` reads these vectors too."""

    def __post_init__(self) -> None:
        if not 1 <= self.execute_steps <= self.chunk_steps:
            raise ValueError(
                f"execute_steps must be from 1 to chunk_steps {self.chunk_steps}, "
                f"got {self.execute_steps}."
            )
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(
                f"hidden_dims must be one or more positive widths, got {self.hidden_dims}."
            )


class Policy(nn.Module, ABC):
    """Maps o_t to z_t. Callers pass and receive latent actions in the LAM's own units.

    Heads predict *points*: the latent actions of a chunk, projected, standardized and concatenated
    (see ``standardize`` and ``denormalize``). If ``chunk_steps`` H is more than 1, a chunk has its
    own axis, and the shapes [B, Z] below become [B, H, Z].

    A subclass has a file of its own, with its config and its class. The observation is encoded
    once, and all other methods start from the embedding, because encoding is expensive.
    """

    Config: Any
    noise_dim: int = 0
    """Size of the noise of one row at one step; 0 for a policy without noise."""
    embed_dim: int
    """E, size of h(o_t): the encoded image, and the vectors that are read besides it."""
    point_dim: int
    """D, size of a point that the head predicts: H x the projected size of z."""
    head: Any
    """The network after the encoder."""

    def __init__(self, cfg: Any, obs: ObsSpec, latent_action_dim: int) -> None:
        super().__init__()
        self.cfg, self.obs, self.latent_action_dim = cfg, obs, latent_action_dim
        self.encoder = ENCODERS.build(cfg.encoder, obs)
        self.embed_dim = self.encoder.embed_dim + obs.vector_dim
        self.vector_standardizer = LatentStandardizer(obs.vector_dim) if obs.vector_dim else None
        self.projection = LATENT_PROJECTIONS.build(cfg.latent_projection, latent_action_dim)
        standardizer = LATENT_STANDARDIZERS.get(cfg.standardizer.name)
        self.standardizer: LatentStandardizer = standardizer(self.projection.dim, cfg.standardizer)
        self.point_dim = cfg.chunk_steps * self.projection.dim

    def forward(
        self,
        obs: Tensor,
        latent_action: Tensor,
        has_step: Tensor | None = None,
        vectors: Tensor | None = None,
    ) -> LossOutput:
        """Computes the training loss. In training mode it also updates the statistics of units.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            latent_action: z_t of the frozen LAM, float [B, Z].
            has_step: True for steps of a chunk that lie inside of their clip, bool [B, H]; None
                if all do. Other steps do not count in the loss. The first step always counts.
            vectors: Vectors besides the image, float [B, V]; None if the policy reads none.
        """
        if self.training and self.vector_standardizer is not None and vectors is not None:
            self.vector_standardizer.update(vectors)
        return self.loss_from_embedding(self.encode(obs, vectors), latent_action, has_step)

    @abstractmethod
    def loss_from_embedding(
        self, embedding: Tensor, latent_action: Tensor, has_step: Tensor | None
    ) -> LossOutput:
        """Computes the loss of ``forward`` from the embedding h(o_t), [B, E]."""

    @property
    def has_memory(self) -> bool:
        """Whether a step depends on the state that the previous step returned.

        A policy without memory may return False, which saves an evaluation of the head at steps
        where only some episodes begin.
        """
        return True

    def encode(self, obs: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Computes h(o_t): the encoded image, followed by the standardized vectors, if any.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            vectors: The vectors of ``ObsSpec.vector_dims``, concatenated, float [B, V].

        Returns:
            h(o_t), [B, E].

        Raises:
            ValueError: The policy reads vectors, and got none or vectors of another size.
        """
        if self.vector_standardizer is None:
            return self.encoder(obs)
        if vectors is None or vectors.shape[1:] != (self.obs.vector_dim,):
            found = "none" if vectors is None else list(vectors.shape)
            names = " and ".join(self.obs.vector_dims)
            raise ValueError(f"Expected {names} [B, {self.obs.vector_dim}], got {found}.")
        standardized_BV = self.vector_standardizer.standardize(vectors)
        return torch.cat([self.encoder(obs).float(), standardized_BV], dim=1)

    def act(
        self,
        obs: Tensor,
        state: PolicyState | None = None,
        noise: NoiseSource | None = None,
        vectors: Tensor | None = None,
    ) -> tuple[Tensor, PolicyState]:
        """Chooses latent actions for B episodes in parallel.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            state: The state that the previous step of these episodes returned; None at their start.
            noise: See ``NoiseSource``; None means torch's default generator.
            vectors: Vectors besides the image, float [B, V]; None if the policy reads none.

        Returns:
            z_t, float32 [B, Z], and the state for the next step.
        """
        return self.act_from_embedding(self.encode(obs, vectors), state, noise)

    def act_from_embedding(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """Does the work of ``act`` from the embedding h(o_t), [B, E].

        Each row executes its chunk step by step, counts its own steps, and takes a new chunk after
        ``execute_steps``.
        """
        # A chunk is computed at every step, but only used in rows whose chunk is used up. Without
        # branches, a step stays one graph of tensors, and a head costs little beside the encoder.
        chunk, next_state = self.chunk_from_embedding(embedding, state, noise)
        if self.cfg.chunk_steps == 1:
            return chunk, next_state
        age_B = torch.zeros(len(chunk), dtype=torch.int64, device=chunk.device)
        if state is not None and state.chunk is not None and state.chunk_age_steps is not None:
            is_due_B = state.chunk_age_steps >= self.cfg.execute_steps
            chunk = torch.where(is_due_B[:, None, None], chunk, state.chunk)
            age_B = torch.where(is_due_B, age_B, state.chunk_age_steps)
        latent_action = step_of_chunk(chunk, age_B)
        return latent_action, replace(next_state, chunk=chunk, chunk_age_steps=age_B + 1)

    @abstractmethod
    def chunk_from_embedding(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """Predicts the latent actions from now on.

        Args:
            embedding: h(o_t), [B, E].
            state: See ``act``.
            noise: See ``act``.

        Returns:
            float32 [B, Z], and the state of the policy's noise for the next step.
        """

    @classmethod
    def check_anchors(cls, low: float, high: float) -> None:
        """Checks that ``anchored_from_embedding`` takes any anchor time from ``low`` to ``high``.

        A pipeline calls it before its first stage. Decoders call ``anchored_from_embedding`` itself
        once before they train, so a policy need not override this.

        Raises:
            ValueError: It does not.
        """

    @abstractmethod
    def anchored_from_embedding(
        self,
        embedding: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """Predicts the policy's own latent action near the demonstrated one.

        Action decoders are trained on it, since the demonstration's true action belongs to the
        demonstrated mode.

        Args:
            embedding: h(o_t), [B, E].
            latent_action: z_IDM that the LAM infers from the demonstration, float [B, Z].
            anchor_time: 0 gives the policy's own choice, 1 gives z_IDM itself. A flow policy also
                takes values between them, one for all or one per element, float [B].
            noise: See ``NoiseSource``; None means torch's default generator.
            steps_taken: Steps that a flow policy's solver takes from ``anchor_time`` on.

        Returns:
            float32 [B, Z].

        Raises:
            ValueError: The policy does not support this ``anchor_time``.
        """

    def layers(self, which: Literal["head", "last", "all"]) -> Iterator[nn.Parameter]:
        """Yields the trained parameters of the head, of its last layer, or of the whole policy.

        Frozen weights of an encoder are never included.
        """
        if which == "all":
            frozen = {
                id(parameter)
                for module in self.modules()
                if hasattr(module, "frozen_weights")
                for parameter in getattr(module, "backbone", module).parameters()
            }
            yield from (p for p in self.parameters() if id(p) not in frozen)
        elif which == "head":
            yield from self.head.parameters()
        else:
            *_, last = (m for m in self.head.modules() if isinstance(m, nn.Linear))
            yield from last.parameters()

    def networks(self) -> Sequence[nn.Module]:
        """Returns the parts that take most of the time, which ``train.compile`` compiles."""
        return self.encoder, self.head

    def standardize(self, latent_action: Tensor) -> Tensor:
        """Maps latent actions in the LAM's units, [B, Z], to points, float32 [B, D]."""
        return self.standardizer.standardize(self.projection.project(latent_action)).flatten(1)

    def denormalize(self, point: Tensor) -> Tensor:
        """Maps points, [B, D], to latent actions in the LAM's units, float32 [B, Z].

        It is the inverse of ``standardize``, except for what the projection drops.
        """
        if self.cfg.chunk_steps > 1:
            point = point.unflatten(1, (self.cfg.chunk_steps, -1))
        return self.projection.unproject(self.standardizer.denormalize(point))

    def draw_noise(self, num_rows: int, device: torch.device, noise: NoiseSource | None) -> Tensor:
        """Draws N(0, I), float32 [num_rows, noise_dim], or returns ``noise`` if it is a tensor.

        The noise is drawn on the generator's device and then moved, so that a seed gives the same
        noise for every device of the model.
        """
        if isinstance(noise, Tensor):
            return noise
        # torch's generators draw on their own device only.
        drawn_on = noise.device if noise else device
        shape = (num_rows, self.noise_dim)
        return torch.randn(shape, generator=noise, device=drawn_on).to(device)

    def training_target(
        self, latent_action: Tensor, has_step_BH: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Converts latent actions to the points that a head is trained on.

        In training mode it also updates the statistics of latent actions.

        Args:
            latent_action: Float [B, Z], or [B, H, Z] of chunks of H steps.
            has_step_BH: Which steps of a chunk count; None if all do.

        Returns:
            The points, float [B, D] with D = ``point_dim``, and which of their values count, bool
            [B, D]; None if all do.
        """
        if self.training:
            # Only z_t, because the later steps of a chunk are first steps of other windows.
            first_BZ = latent_action if self.cfg.chunk_steps == 1 else latent_action[:, 0]
            self.standardizer.update(self.projection.project(first_BZ))
        is_present_BD = None
        if has_step_BH is not None:
            is_present_BD = has_step_BH.repeat_interleave(self.projection.dim, dim=1)
        return self.standardize(latent_action), is_present_BD


def step_of_chunk(plan_BHZ: Tensor, position_B: Tensor) -> Tensor:
    """Picks the latent action at one position of each chunk: [B, H, Z], int64 [B] -> [B, Z]."""
    index_B1Z = position_B.view(-1, 1, 1).expand(-1, 1, plan_BHZ.shape[2])
    return plan_BHZ.gather(1, index_B1Z).squeeze(1)
