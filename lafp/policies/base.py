"""What every policy is: a loss over (observation, latent action), and a way to act."""

# Shape suffixes in this file: B batch, E embedding, Z latent action, H steps of a chunk, D point,
# V vectors beside the image.

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lafp.config import choice
from lafp.flow_matching.solver import StepsTaken
from lafp.models import ENCODERS, LATENT_PROJECTIONS, LATENT_STANDARDIZERS
from lafp.models.latent_projection import LatentProjection, NoProjectionConfig
from lafp.models.standardizer import LatentStandardizer, StdConfig
from lafp.types import LossOutput, ObsSpec, PolicyState

NoiseSource = torch.Generator | Tensor
"""Where a policy's noise comes from: a generator on any device, or the noise itself, float32
[B, noise_dim]. With it a step is a pure function of tensors, which compiles and exports."""


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """What a policy reads besides the image."""

    state: bool = False
    """The robot's state (proprioception). Needs shards of a source that has it."""
    condition: bool = False
    """What the episode is to do, one vector for all of it: a task id (one-hot), the embedding of a
    text or of a goal image. Needs shards of a source that has it."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What all policies share, so that comparisons between them are fair."""

    name: str
    encoder: Any = choice(ENCODERS)
    hidden_dims: tuple[int, ...] = (256, 256)
    """Widths of the head's hidden layers."""
    latent_projection: Any = choice(LATENT_PROJECTIONS, default=NoProjectionConfig())
    """``{name: pca, dim: 64}`` predicts the leading components of a wide latent action only."""
    standardizer: Any = choice(LATENT_STANDARDIZERS, default=StdConfig())
    """Units of the projected latent actions: ``std`` whitens each dimension, ``global`` divides all
    by one number, ``range`` is LAFP's, centred on the middle of the range."""
    chunk_steps: int = 1
    """H: how many latent actions are planned at a time, z_t .. z_{t+H-1}."""
    execute_steps: int = 1
    """How many steps of a plan are executed before the next one replaces it (receding horizon)."""

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
    """o_t -> z_t. Latent actions go in and come out in the LAM's own units.

    Heads see *points*: latent actions projected, standardized (``standardize``, ``restore``), and
    those of a chunk side by side. A chunk has an axis of its own, [B, H, Z], where
    ``chunk_steps`` H is more than 1; the shapes below, [B, Z], are then [B, H, Z].

    Subclasses: one file, Config and class. The observation is encoded once; everything that a
    policy does with it then starts from the embedding.
    """

    Config: Any
    noise_dim: int = 0
    """Numbers of noise that one row takes at a step; a policy that draws any sets it."""
    embed_dim: int
    """E, size of h(o_t): of the encoded image, and of the vectors that are read beside it."""
    point_dim: int
    """D, what a head predicts: H x Z, or H x what the projection leaves of Z."""
    head: Any
    """All that follows the encoder."""

    def __init__(self, cfg: Any, obs: ObsSpec, latent_action_dim: int) -> None:
        super().__init__()
        self.cfg, self.obs, self.latent_action_dim = cfg, obs, latent_action_dim
        self.encoder = ENCODERS.get(cfg.encoder.name)(cfg.encoder, obs)
        self.embed_dim = self.encoder.embed_dim + obs.vector_dim
        self.vector_standardizer = LatentStandardizer(obs.vector_dim) if obs.vector_dim else None
        projection = LATENT_PROJECTIONS.get(cfg.latent_projection.name)
        self.projection: LatentProjection = projection(cfg.latent_projection, latent_action_dim)
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
        """Training loss. In training mode it also updates the standardization statistics.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            latent_action: z_t of the frozen LAM, float [B, Z].
            has_step: Which steps of a chunk lie inside of their clip, bool [B, H]; None is all.
                The others count in no loss. The first one is always there.
            vectors: float [B, V], for policies that read any beside the image.
        """
        if self.training and self.vector_standardizer is not None and vectors is not None:
            self.vector_standardizer.update(vectors)
        return self.loss_on(self.encode(obs, vectors), latent_action, has_step)

    @abstractmethod
    def loss_on(
        self, embedding: Tensor, latent_action: Tensor, has_step: Tensor | None
    ) -> LossOutput:
        """``forward``, from h(o_t), [B, E]."""

    @property
    def has_memory(self) -> bool:
        """Whether a step depends on the state that the last one returned.

        A policy that overrides nothing may; a step without memory is cheaper where episodes begin.
        """
        return True

    def encode(self, obs: Tensor, vectors: Tensor | None = None) -> Tensor:
        """h(o_t): the encoded image, and behind it the standardized vectors where any are read.

        Args:
            obs: float [B, 3 F, H, W] in [-1, 1].
            vectors: Those of ``ObsSpec.vector_dims``, side by side, float [B, V].

        Returns:
            [B, E].

        Raises:
            ValueError: The policy reads vectors, and got none or such of another size.
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
        """Chooses latent actions for B episodes side by side.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            state: What the previous step of these episodes returned; None at their start.
            noise: See ``NoiseSource``; None is torch's default generator.
            vectors: float [B, V], for policies that read any beside the image.

        Returns:
            z_t, float32 [B, Z], and the state for the next step.
        """
        return self.act_on(self.encode(obs, vectors), state, noise)

    def act_on(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """``act``, from h(o_t), [B, E]: the step of each row's plan that it has come to.

        Rows count their own steps and begin a new plan after ``execute_steps``. A plan is made at
        every step and kept where one is due: without branches, a step stays one graph of tensors,
        and a head costs little beside the encoder.
        """
        plan, next_state = self.plan_on(embedding, state, noise)
        if self.cfg.chunk_steps == 1:
            return plan, next_state
        age_B = torch.zeros(len(plan), dtype=torch.int64, device=plan.device)
        if state is not None and state.plan is not None and state.plan_age_steps is not None:
            is_due_B = state.plan_age_steps >= self.cfg.execute_steps
            plan = torch.where(is_due_B[:, None, None], plan, state.plan)
            age_B = torch.where(is_due_B, age_B, state.plan_age_steps)
        latent_action = step_of_plan(plan, age_B)
        return latent_action, replace(next_state, plan=plan, plan_age_steps=age_B + 1)

    @abstractmethod
    def plan_on(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """Latent actions from now on, float32 [B, Z], and what the policy remembers of its noise.

        Args:
            embedding: h(o_t), [B, E].
            state: See ``act``.
            noise: See ``act``.
        """

    def anchored_latent_action(
        self,
        obs: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        vectors: Tensor | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """The policy's own latent action in the demonstrated mode, to train action decoders on.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            latent_action: z_IDM, what the LAM infers from the demonstration, float [B, Z].
            anchor_time: 0 is the policy's own choice, 1 is z_IDM itself. A flow policy takes
                anything between, and one value per element too, float [B].
            noise: See ``NoiseSource``; None is torch's default generator.
            vectors: float [B, V], for policies that read any beside the image.
            steps_taken: How a flow policy's solver goes on from there.

        Returns:
            float32 [B, Z].

        Raises:
            ValueError: ``anchor_time`` is one that this policy has no meaning for.
        """
        embedding = self.encode(obs, vectors)
        return self.anchored_on(embedding, latent_action, anchor_time, noise, steps_taken)

    @abstractmethod
    def anchored_on(
        self,
        embedding: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """``anchored_latent_action``, from h(o_t), [B, E]."""

    def layers(self, which: Literal["head", "last", "all"]) -> Iterator[nn.Parameter]:
        """The parameters that training changes: of the head, of its last layer, or all of them.

        Weights that an encoder keeps frozen are in none of these.
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

    def standardize(self, latent_action: Tensor) -> Tensor:
        """Latent actions in the LAM's units, [B, Z] -> points, float32 [B, D]."""
        return self.standardizer.standardize(self.projection.project(latent_action)).flatten(1)

    def restore(self, point: Tensor) -> Tensor:
        """The inverse of ``standardize``, up to what the projection has dropped."""
        if self.cfg.chunk_steps > 1:
            point = point.unflatten(1, (self.cfg.chunk_steps, -1))
        return self.projection.restore(self.standardizer.restore(point))

    def draw_noise(self, num_rows: int, device: torch.device, noise: NoiseSource | None) -> Tensor:
        """N(0, I), float32 [num_rows, noise_dim]; ``noise`` itself where that is it.

        It is drawn where the generator is and then moved, so that a seed means the same anywhere.
        """
        if isinstance(noise, Tensor):
            return noise
        drawn_on = noise.device if noise else device
        shape = (num_rows, self.noise_dim)
        return torch.randn(shape, generator=noise, device=drawn_on).to(device)

    def _training_target(
        self, latent_action: Tensor, has_step_BH: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The latent actions' points, [B, D], and which of their values count, bool [B, D].

        The statistics take in z_t alone: later steps of a chunk are first steps of other windows.
        """
        if self.training:
            first_BZ = latent_action if self.cfg.chunk_steps == 1 else latent_action[:, 0]
            self.standardizer.update(self.projection.project(first_BZ))
        is_present_BD = None
        if has_step_BH is not None:
            is_present_BD = has_step_BH.repeat_interleave(self.projection.dim, dim=1)
        return self.standardize(latent_action), is_present_BD


def step_of_plan(plan_BHZ: Tensor, position_B: Tensor) -> Tensor:
    """The latent action at one position of each plan: float [B, H, Z], int64 [B] -> [B, Z]."""
    index_B1Z = position_B.view(-1, 1, 1).expand(-1, 1, plan_BHZ.shape[2])
    return plan_BHZ.gather(1, index_B1Z).squeeze(1)
