"""One step of N episodes as a pure function of tensors: what agents run, compile and export."""

# Shape suffixes in this file: N episodes, F frames of a stack, H height, W width, C channels (3),
# A true action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.data.windows import pixels_to_float
from lafp.models.action_decoder import ActionDecoder, TrueActions
from lafp.policies.base import Policy
from lafp.types import PolicyState


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What N episodes carry from one step to the next."""

    frames: Tensor
    """uint8 [N, F, H, W, 3], oldest first: the stack that was seen last."""
    policy: PolicyState


class AgentStep(nn.Module):
    """Frame -> action, with nothing hidden: memory and noise come in, the next memory goes out.

    Args:
        policy: Frozen, in eval mode.
        action_decoder: Frozen, in eval mode.
        dtype: Of the image encoder, where nearly all of the work is. The rest stays float32: the
            solver adds up small steps, and actions are read from what comes out.
    """

    def __init__(
        self,
        policy: Policy,
        action_decoder: ActionDecoder | TrueActions,
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
            frame: What the cameras see now, uint8 [N, H, W, 3].
            noise: The policy's, float32 [N, noise_dim]; new at every step.
            memory: What the last step returned; None where all episodes begin.
            is_first: Which episodes begin, bool [N], and shall see nothing of ``memory``; None for
                none of them.
            vectors: float32 [N, V], for policies that read any beside the image.

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
        """The stack with the new frame; the first frame of an episode fills its own."""
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
            return self.policy.act_on(embedding, None, noise)[0], PolicyState()
        if memory is None:
            return self.policy.act_on(embedding, None, noise)
        latent_action, state = self.policy.act_on(embedding, memory.policy, noise)
        if is_first is None:
            return latent_action, state
        # The head runs twice, at steps with a reset only: any policy's memory can be begun anew.
        first, first_state = self.policy.act_on(embedding, None, noise)
        latent_action = torch.where(is_first[:, None], first, latent_action)
        return latent_action, PolicyState.where(is_first, first_state, state)
