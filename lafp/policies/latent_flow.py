"""Latent flow policy (LAFP), which learns the whole distribution of latent actions."""

# Shape suffixes in this file: B batch, M num_time_draws, N B x M, D point.

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lafp.config import Choice, choice
from lafp.config.ranges import check_at_least
from lafp.flow_matching import TIME_DISTRIBUTIONS
from lafp.flow_matching.anchor import anchored_point
from lafp.flow_matching.coupling import conditional_ot_coupling
from lafp.flow_matching.path import velocity_towards
from lafp.flow_matching.solver import SolverName, StepsTaken, Velocity, integrate
from lafp.flow_matching.time_distribution import UniformTimeConfig
from lafp.losses.flow_matching import Space, flow_matching_loss
from lafp.models import velocity_field
from lafp.policies.base import NoiseSource, Policy, PolicyConfig
from lafp.types import LossOutput, ObsSpec, PolicyState

Noise = Literal["fresh", "persistent", "held", "warm_start"]


@dataclass(frozen=True, kw_only=True)
class LatentFlowConfig(PolicyConfig):
    """Flow matching on standardized latent actions. The last three keys only affect acting.

    The solver and its number of steps also make the samples on which an action decoder is trained.
    """

    name: str = "latent_flow"
    prediction: Space = "x"
    """Prediction of the head: ``x``, the data itself (LAFP's choice), or the velocity."""
    loss_space: Space = "x"
    """Space in which errors are measured. LAFP uses ``x``, with prediction ``x``. The loss in ``x``
    is the loss in velocities times (1 - t)^2, so the end of the path counts less. Flow matching
    as Lipman et al. have it sets both keys to ``velocity``."""
    time: Choice = choice(TIME_DISTRIBUTIONS, default=UniformTimeConfig())
    """Distribution of flow times in training."""
    num_time_draws: int = 8
    """Draws of (x_0, t) per encoded observation. More draws lower the variance of the loss, and
    only the head runs more often."""
    coupling: Literal["independent", "minibatch_ot"] = "independent"
    """Pairing of noise and data in training: at random, or by optimal transport within the batch,
    which gives straighter paths. See ``conditional_ot_coupling``."""
    condition_weight: float = 10.0
    """Used by `minibatch_ot`: beta, the cost of the distance between observations' embeddings. A
    larger value means less bias, and a pairing that is closer to `independent`. The default is not
    tuned on any task."""
    solver: SolverName = "euler"
    num_solver_steps: int = 4
    """Steps from noise to data. Midpoint and heun evaluate the head twice per step."""
    noise: Noise = "fresh"
    """Start of the solver: new noise at each step of an episode (`fresh`), one noise per episode
    (`persistent`), noise that is renewed every `noise_hold_steps` (`held`), or a point between
    noise and the previous latent action (`warm_start`)."""
    noise_hold_steps: int = 8
    """Steps for which `held` keeps its noise: 1 equals `fresh`, an episode's length or more equals
    `persistent`. Choose it long enough to pass a fork in one mode, and short enough to draw anew
    before the next fork."""
    warm_start_time: float = 0.2
    """Flow time at which `warm_start` begins; only the remaining solver steps are taken. A later
    time gives smoother actions, but is worse at a fork, because the previous action favours going
    on in the same direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_time_draws", "num_solver_steps", "noise_hold_steps")
        check_at_least(self, 0, "condition_weight")
        if not 0.0 <= self.warm_start_time < 1.0:
            raise ValueError(f"warm_start_time must be in [0, 1), got {self.warm_start_time}.")
        if self.prediction == "x" and self.solver == "heun":
            raise ValueError(
                "solver heun evaluates the velocity at t = 1, which prediction x does not define. "
                "Use solver midpoint, which has the same order, or prediction velocity."
            )


class LatentFlow(Policy):
    """Samples z_t from N(0, I) by the flow of v(x_t, t, h(o_t)).

    See Lipman et al., arXiv:2210.02747.
    """

    Config = LatentFlowConfig
    num_times = 1
    """Number of flow times that the head reads."""

    def __init__(self, cfg: LatentFlowConfig, obs: ObsSpec, latent_action_dim: int) -> None:
        super().__init__(cfg, obs, latent_action_dim)
        self.noise_dim = self.point_dim
        self.head = velocity_field.VelocityField(
            self.point_dim, self.embed_dim, cfg.hidden_dims, self.num_times
        )
        self.time = TIME_DISTRIBUTIONS.build(cfg.time)

    @property
    def has_memory(self) -> bool:
        """True with chunks, and if the solver's start depends on earlier steps."""
        return self.cfg.chunk_steps > 1 or self.cfg.noise != "fresh"

    def loss_from_embedding(
        self, embedding: Tensor, latent_action: Tensor, has_step: Tensor | None
    ) -> LossOutput:
        """Computes the flow-matching loss in standardized units. See ``Policy.forward``."""
        num_draws = self.cfg.num_time_draws
        x_1_BD, is_present = self.training_target(latent_action, has_step)
        x_1_ND = x_1_BD.repeat_interleave(num_draws, 0)
        if is_present is not None:
            is_present = is_present.repeat_interleave(num_draws, 0)
        condition = self.head.condition(embedding).repeat_interleave(num_draws, 0)
        x_0_ND = torch.randn_like(x_1_ND)
        if self.cfg.coupling == "minibatch_ot":
            x_0_ND = self._coupled(x_0_ND, x_1_ND, embedding.detach())
        return self._loss(x_0_ND, x_1_ND, condition, is_present)

    def _loss(
        self, x_0_ND: Tensor, x_1_ND: Tensor, condition: Tensor, is_present: Tensor | None
    ) -> LossOutput:
        """Computes the loss of N pairs of noise and data."""
        t_N = self.time.sample(len(x_1_ND), x_1_ND.device)

        def head(x_t: Tensor, t: Tensor) -> Tensor:
            return self.head(x_t, t, condition).float()

        loss = flow_matching_loss(
            head,
            x_0_ND,
            x_1_ND,
            t_N,
            prediction=self.cfg.prediction,
            loss_space=self.cfg.loss_space,
            is_present=is_present,
        )
        return LossOutput(loss=loss)

    def chunk_from_embedding(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """Samples latent actions from the start that the config's ``noise`` chooses.

        See ``Policy``.
        """
        cfg = self.cfg
        noise_BD, noise_age_B = self._start(embedding, state, noise)
        start_BD, start_time = noise_BD, 0.0
        if state and state.chunk is not None and cfg.noise == "warm_start":
            rest_BD = self.standardize(_rest_of_chunk(state.chunk, state.chunk_age_steps))
            start_BD = anchored_point(noise_BD, rest_BD, cfg.warm_start_time)
            start_time = cfg.warm_start_time
        chunk = self.denormalize(self._solve(embedding, start_BD, start_time))
        return chunk, PolicyState(noise=noise_BD, noise_age_steps=noise_age_B, chunk=chunk)

    def anchored_from_embedding(
        self,
        embedding: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """Solves from a point between fresh noise and the demonstrated latent action.

        See ``Policy.anchored_from_embedding``.
        """
        noise_BD = self.draw_noise(len(embedding), embedding.device, noise)
        start_BD = anchored_point(noise_BD, self.standardize(latent_action), anchor_time)
        return self.denormalize(self._solve(embedding, start_BD, anchor_time, steps_taken))

    def _solve(
        self,
        embedding: Tensor,
        x_BD: Tensor,
        start_time: float | Tensor,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """Moves points along the flow from ``start_time`` to 1."""
        return integrate(
            self._velocity_field(embedding),
            x_BD,
            start_time=start_time,
            num_steps=self.cfg.num_solver_steps,
            steps_taken=steps_taken,
            solver=self.cfg.solver,
        )

    def _coupled(self, x_0_ND: Tensor, x_1_ND: Tensor, embedding: Tensor) -> Tensor:
        """Permutes the noise by the coupling. Each of the draws is coupled separately."""
        x_0_BMD, x_1_BMD = (x.unflatten(0, (len(embedding), -1)) for x in (x_0_ND, x_1_ND))
        draws = []
        for x_0_BD, x_1_BD in zip(x_0_BMD.unbind(1), x_1_BMD.unbind(1), strict=True):
            order = conditional_ot_coupling(x_0_BD, x_1_BD, embedding, self.cfg.condition_weight)
            draws.append(x_0_BD[order])
        return torch.stack(draws, 1).flatten(0, 1)

    def _start(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns this step's noise, [B, D], and for `held` for how many steps it was used."""
        previous = state.noise if state else None
        if previous is not None and self.cfg.noise == "persistent":
            return previous, None
        noise_BD = self.draw_noise(len(embedding), embedding.device, noise)
        if self.cfg.noise != "held":
            return noise_BD, None
        age_B = torch.ones(len(noise_BD), dtype=torch.int64, device=noise_BD.device)
        if state is None or previous is None or state.noise_age_steps is None:
            return noise_BD, age_B
        # Noise is drawn at every step although few rows use it, because a test whether any row
        # does would wait for the device.
        is_held_B = state.noise_age_steps < self.cfg.noise_hold_steps
        noise_BD = torch.where(is_held_B[:, None], previous, noise_BD)
        return noise_BD, torch.where(is_held_B, state.noise_age_steps + 1, age_B)

    def _velocity_field(self, embedding: Tensor) -> "ObservedVelocityField":
        condition = self.head.condition(embedding)
        return ObservedVelocityField(self.head, condition, self.cfg.prediction)


class ObservedVelocityField:
    """v(x_t, t) for given observations. See ``TimedVelocityField``.

    If the head predicts data, the prediction is converted to a velocity.
    """

    def __init__(
        self, head: velocity_field.VelocityField, condition: Tensor, prediction: str
    ) -> None:
        self._head, self._condition, self._prediction = head, condition, prediction

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Computes the velocity at x_t, [B, D], and t, [B]."""
        return self._velocity(self._head(x_t, t, self._condition).float(), x_t, t)

    def at_times(self, times: Sequence[float]) -> Sequence[Velocity]:
        """Returns the velocity at each of the times as a function of x_t."""
        heads = self._head.at_times(times, self._condition)
        return [partial(self._at, head, t) for head, t in zip(heads, times, strict=True)]

    def _at(self, head: Velocity, t: float, x_t: Tensor) -> Tensor:
        return self._velocity(head(x_t).float(), x_t, t)

    def _velocity(self, predicted: Tensor, x_t: Tensor, t: float | Tensor) -> Tensor:
        if self._prediction == "velocity":
            return predicted
        return velocity_towards(predicted, x_t, t)


def _rest_of_chunk(chunk: Tensor, age_steps_B: Tensor | None) -> Tensor:
    """Returns the remaining steps of an earlier chunk, filled up by repeating its last step.

    Args:
        chunk: float [B, H, Z]. A chunk without chunks, [B, Z], is returned as it is.
        age_steps_B: int64 [B]: number of steps of the chunk that were executed.
    """
    if chunk.ndim == 2 or age_steps_B is None:
        return chunk
    num_steps = chunk.shape[1]
    ahead_H = torch.arange(num_steps, device=chunk.device)
    step_BH = (age_steps_B[:, None] + ahead_H).clamp(max=num_steps - 1)
    return chunk.gather(1, step_BH[:, :, None].expand(-1, -1, chunk.shape[2]))
