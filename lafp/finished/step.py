"""One step of N episodes as a pure function of tensors, which agents run, compile and export."""

# Shape suffixes in this file: N episodes, F frames of a stack, H height, W width, C channels (3),
# A true action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.data.windows import pixels_to_float
from lafp.finished.lam_action_decoder import LamActionDecoder
from lafp.models.action_decoder import ActionDecoder, TrueActions
from lafp.policies.base import Policy
from lafp.types import PolicyState


@dataclass(frozen=True, kw_only=True)
class Memory:
    """State of N episodes between two steps."""

    frames: Tensor
    """uint8 [N, F, H, W, 3], oldest first: the frame stack of the last step."""
    policy: PolicyState

    def rows(self, kept: Tensor) -> "Memory":
        """Returns the episodes where ``kept``, bool [N], is true."""
        return Memory(frames=self.frames[kept], policy=self.policy.rows(kept))


class AgentStep(nn.Module):
    """Maps frames, noise and memory to actions and the next memory. It keeps no state itself.

    Args:
        policy: A frozen policy in eval mode.
        action_decoder: A frozen decoder in eval mode.
        dtype: Type of the image encoder, which does nearly all of the work. The rest stays in
            float32, because the solver adds up small steps and actions depend on the sum.
        sample_actions: Draw discrete actions from the decoder's distribution. By default the
            likeliest one is taken.

    Raises:
        ConfigError: ``sample_actions`` with continuous actions, of which the decoder gives one.
    """

    def __init__(
        self,
        policy: Policy,
        action_decoder: ActionDecoder | LamActionDecoder | TrueActions,
        dtype: torch.dtype = torch.float32,
        sample_actions: bool = False,
    ) -> None:
        super().__init__()
        if sample_actions and not action_decoder.action.is_discrete:
            raise ConfigError(
                "sample_actions: this agent's actions are continuous, and its decoder predicts a "
                "single one. Leave it out; only discrete actions have probabilities."
            )
        self.policy, self.action_decoder, self.dtype = policy, action_decoder, dtype
        self.sample_actions = sample_actions
        policy.encoder.to(dtype)

    @property
    def noise_dim(self) -> int:
        """Size of the noise that ``forward`` reads: the policy's, then that of sampled actions."""
        num_choices = self.action_decoder.action.dim if self.sample_actions else 0
        return self.policy.noise_dim + num_choices

    def draw_noise(self, num_episodes: int, generator: torch.Generator) -> Tensor:
        """Draws N(0, I), float32 [num_episodes, noise_dim], on the generator's device."""
        shape = (num_episodes, self.noise_dim)
        return torch.randn(shape, generator=generator, device=generator.device)

    def forward(
        self,
        frame: Tensor,
        noise: Tensor,
        memory: Memory | None,
        is_first: Tensor | None = None,
        vectors: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Acts once in every episode.

        Args:
            frame: The current camera images, uint8 [N, H, W, 3].
            noise: Drawn from N(0, I) at every step, float32 [N, noise_dim].
            memory: The memory that the previous step returned; None if all episodes begin.
            is_first: True for episodes that begin, bool [N], which ignore ``memory``; None if no
                episode begins.
            vectors: Vectors besides the image, float32 [N, V]; None if the policy reads none.

        Returns:
            Actions in the environment's units, float32 [N, A] or int64 [N], and the next memory.
        """
        frames_NFHWC = self._stacked(frame, memory, is_first)
        # [N, F, H, W, C] -> [N, 3 F, H, W], as ``lafp.data.windows.stack_frames`` does.
        obs = pixels_to_float(frames_NFHWC.permute(0, 1, 4, 2, 3).flatten(1, 2))
        embedding = self.policy.encode(obs.to(self.dtype), vectors).float()
        policy_noise, action_noise = noise.tensor_split([self.policy.noise_dim], dim=1)
        latent_action, state = self._latent_action(embedding, policy_noise, memory, is_first)
        gumbel = _gumbel(action_noise) if self.sample_actions else None
        action_NA = self.action_decoder.decode(latent_action, embedding, gumbel)
        return action_NA, Memory(frames=frames_NFHWC, policy=state)

    def _stacked(
        self, frame_NHWC: Tensor, memory: Memory | None, is_first: Tensor | None
    ) -> Tensor:
        """Adds the new frame to the stack. The first frame of an episode fills its whole stack."""
        newest_N1HWC = frame_NHWC[:, None]
        frame_stack = self.policy.obs.frame_stack
        if memory is None or frame_stack == 1:
            return newest_N1HWC.repeat(1, frame_stack, 1, 1, 1)
        frames_NFHWC = torch.cat([memory.frames[:, 1:], newest_N1HWC], dim=1)
        if is_first is None:
            return frames_NFHWC
        return torch.where(is_first.view(-1, 1, 1, 1, 1), newest_N1HWC, frames_NFHWC)

    def _latent_action(
        self, embedding: Tensor, noise: Tensor, memory: Memory | None, is_first: Tensor | None
    ) -> tuple[Tensor, PolicyState]:
        if not self.policy.has_memory:
            return self.policy.act_from_embedding(embedding, None, noise)[0], PolicyState()
        if memory is None:
            return self.policy.act_from_embedding(embedding, None, noise)
        latent_action, state = self.policy.act_from_embedding(embedding, memory.policy, noise)
        if is_first is None:
            return latent_action, state
        # The head runs a second time for episodes that begin, only at steps with a reset. This
        # works for the memory of any policy.
        first, first_state = self.policy.act_from_embedding(embedding, None, noise)
        latent_action = torch.where(is_first[:, None], first, latent_action)
        return latent_action, PolicyState.where(is_first, first_state, state)


def _gumbel(normal: Tensor) -> Tensor:
    """Turns N(0, 1) into the standard Gumbel distribution, value by value.

    A step has one noise of one distribution, so that whoever runs an exported step draws it simply.
    """
    # ndtr of -5.5, the smallest value in some 50 million draws, is 2e-8: float32 rounds 1 - 2e-8 to
    # 1, so the larger of both tails is the one that is computed.
    tail = torch.special.ndtr(-normal.abs()).clamp_min(torch.finfo(torch.float32).tiny)
    log_cdf = torch.where(normal < 0, tail.log(), torch.log1p(-tail))
    return -(-log_cdf).log()
