"""One step of N episodes as a pure function of tensors, which agents run, compile and export."""

# Shape suffixes in this file: N episodes, F frames of a stack, H height, W width, C channels (3),
# A true action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


class AgentStep(nn.Module):
    """Maps frames, noise and memory to actions and the next memory. It keeps no state itself.

    Args:
        policy: A frozen policy in eval mode.
        action_decoder: A frozen decoder in eval mode.
        dtype: Type of the image encoder, which does nearly all of the work. The rest stays in
            float32, because the solver adds up small steps and actions depend on the sum.
    """

    def __init__(
        self,
        policy: Policy,
        action_decoder: ActionDecoder | LamActionDecoder | TrueActions,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.policy, self.action_decoder, self.dtype = policy, action_decoder, dtype
        policy.encoder.to(dtype)

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
            noise: The policy's noise, float32 [N, noise_dim], drawn anew at every step.
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
        latent_action, state = self._latent_action(embedding, noise, memory, is_first)
        action_NA = self.action_decoder.decode(latent_action, embedding)
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
