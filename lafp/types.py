"""Types that modules pass to each other. Every type checks its own shapes.

Shape letters: B batch (clips or windows), T frames of a clip, C channels, F frames of a stack,
H height, W width, Z latent action, A true action, S state, G condition, V concatenated vectors.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from lafp.device_constants import device_constant


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """Describes one true action, in the environment's units."""

    dim: int
    """Number of values; for discrete actions the number of choices."""
    is_discrete: bool = False
    low: tuple[float, ...] = ()
    """Lower bound per dimension (continuous only)."""
    high: tuple[float, ...] = ()
    """Upper bound per dimension (continuous only)."""

    def __post_init__(self) -> None:
        if not self.is_discrete and not len(self.low) == len(self.high) == self.dim:
            raise ValueError(
                f"A continuous action of {self.dim} dimensions needs as many bounds, "
                f"got {len(self.low)} low and {len(self.high)} high."
            )

    def normalize(self, action: Tensor) -> Tensor:
        """Maps environment units to [-1, 1] per dimension. Constant dimensions become 0."""
        low, high = self._bounds(action)
        return (2 * action - low - high) / torch.where(high > low, high - low, 1.0)

    def denormalize(self, action: Tensor) -> Tensor:
        """Maps [-1, 1] per dimension to environment units: the inverse of ``normalize``."""
        low, high = self._bounds(action)
        return (action * (high - low) + low + high) / 2

    def decode(self, outputs: Tensor, gumbel: Tensor | None = None) -> Tensor:
        """Turns a model's outputs into actions in the environment's units, within its bounds.

        Args:
            outputs: Normalized actions, or the logits of the choices, float [B, A].
            gumbel: Independent noise with the standard Gumbel distribution, float [B, A], for
                discrete actions only. With it, the choice is a sample of the softmax of the logits
                (the Gumbel-max trick); without, it is the likeliest choice.

        Returns:
            [B, A] like ``outputs``, or int64 [B] choices.
        """
        if self.is_discrete:
            return (outputs if gumbel is None else outputs + gumbel).argmax(dim=1)
        return self.denormalize(outputs.clamp(-1, 1))

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_discrete:
            raise ValueError("Discrete actions have no bounds to normalize by.")
        low, high = (device_constant(v, like.device, like.dtype) for v in (self.low, self.high))
        return low, high


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """Describes the observations of a model. Stored with every model, checked at deployment."""

    height_px: int
    width_px: int
    frame_stack: int
    """F, frames per observation, oldest first along the channels."""
    fps: float
    """Frames per second: one step is 1/fps seconds."""
    state_dim: int = 0
    """S, size of the robot's state (proprioception) that a policy also reads; 0 means none."""
    condition_dim: int = 0
    """G, size of the condition (task id, embedding of a text or a goal) that a policy also reads;
    0 means none."""

    @property
    def num_channels(self) -> int:
        """Channels of an observation: 3 F."""
        return 3 * self.frame_stack

    @property
    def vector_dims(self) -> dict[str, int]:
        """Name and size of each vector that a policy reads besides the image, in order."""
        dims = {"state": self.state_dim, "condition": self.condition_dim}
        return {name: dim for name, dim in dims.items() if dim}

    @property
    def vector_dim(self) -> int:
        """V, size of all vectors of ``vector_dims`` together."""
        return self.state_dim + self.condition_dim


PER_FRAME = ("true_action", "action_noise", "state", "latent_action", "optical_flow")
"""Fields of ``ClipBatch`` with one row per frame, [B, T, ...], which only some shard sets have."""


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Decoded clips, as readers send them to training workers.

    Each frame is sent once, however many windows use it.
    """

    frames: Tensor
    """uint8 [B, T, H, W, 3], padded at the end to a common T; with ``frame_rows`` fewer rows."""
    num_frames: Tensor
    """int64 [B]: number of frames of each clip, without padding."""
    clip_key: Tensor
    """int64 [B]: 63 bits of the clip id. The clip's random draws depend on it."""
    epoch: Tensor
    """int64 [B]: number of the visit to the clip. The clip's random draws depend on it too."""
    true_action: Tensor | None = None
    """float32 [B, T, A] (discrete: int64 [B, T]): row t acts between frames t and t+1."""
    action_noise: Tensor | None = None
    """float32 [B, T, A]: exploration noise in ``true_action``; None unless all clips tell it."""
    state: Tensor | None = None
    """float32 [B, T, S]: the robot's state at frame t; None unless all clips have one."""
    condition: Tensor | None = None
    """float32 [B, G]: the goal of the episode as numbers; None unless all clips have one."""
    latent_action: Tensor | None = None
    """float32 [B, T, Z]: row t is z of frames (t, t + 1); None unless a latent set is read."""
    optical_flow: Tensor | None = None
    """float16 [B, T, 2, h, w]: optical flow from frame t to t + 1; None unless stored."""
    mask: Tensor | None = None
    """uint8 [B, T, H, ceil(W / 8)], one bit per pixel of ``frames``: 1 where the frame shows the
    agent, and everywhere in a clip without a mask. None unless some clips of the sets have one."""
    frame_rows: Tensor | None = None
    """int32 [B, T]: frame t is row ``frame_rows[b, t]`` of ``frames[b]``. None if all frames were
    sent. For a frame that was not sent, the value is no valid row."""
    damaged: Tensor | None = None
    """int64 [B, 2]: if another clip replaces one that could not be read, the key of the unreadable
    clip and the reason, an index into ``lafp.data.shards.damage.REASONS``; else zeros."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.shape[-1] != 3 or self.frames.dtype != torch.uint8:
            raise ValueError(
                "ClipBatch.frames must be uint8 [B, T, H, W, 3], got "
                f"{self.frames.dtype} {tuple(self.frames.shape)}."
            )
        num_clips = self.frames.shape[0]
        for name in ("num_frames", "clip_key", "epoch"):
            if getattr(self, name).shape != (num_clips,):
                raise ValueError(f"ClipBatch.{name} must have shape [{num_clips}].")
        if self.mask is not None and self.mask.shape[:3] != self.frames.shape[:3]:
            raise ValueError(
                f"ClipBatch.mask must be [B, T, H, ceil(W / 8)] beside frames "
                f"{tuple(self.frames.shape)}, got {tuple(self.mask.shape)}."
            )
        shape = (self.frames if self.frame_rows is None else self.frame_rows).shape[:2]
        for name in PER_FRAME:
            per_frame = getattr(self, name)
            if per_frame is not None and per_frame.shape[:2] != shape:
                raise ValueError(
                    f"ClipBatch.{name} must be [B, T, ...] with B, T = {tuple(shape)}, got "
                    f"{tuple(per_frame.shape)}."
                )
        if self.condition is not None and self.condition.shape[:-1] != (num_clips,):
            raise ValueError(
                f"ClipBatch.condition must be [{num_clips}, G], got {tuple(self.condition.shape)}."
            )

    def to(self, device: torch.device) -> "ClipBatch":
        """Returns the batch with frames and labels on ``device``.

        ``num_frames``, ``clip_key``, ``epoch`` and ``damaged`` stay on the host. The host needs
        their values, and reading them from a GPU would make every step wait for the GPU.
        """
        return replace(
            self,
            frames=_sent(self.frames, device),
            **{
                name: _sent(getattr(self, name), device)
                for name in (*PER_FRAME, "mask", "condition", "frame_rows")
                if getattr(self, name) is not None
            },
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device. From pinned memory, a GPU copies while the host goes on."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One training sample per row: observations one step and k steps apart, on the device.

    Observations are float [B, 3 F, H, W] in [-1, 1], stacked frames oldest first.
    """

    obs: Tensor
    """o_t."""
    next_obs: Tensor
    """o_{t+1}."""
    future_obs: Tensor
    """o_{t+k}; the same tensor as ``next_obs`` when K = 1."""
    offset_steps: Tensor
    """int64 [B]: k, in 1..K."""
    true_action: Tensor | None = None
    """a_t: float32 [B, A] or int64 [B]; None in unlabeled data."""
    action_noise: Tensor | None = None
    """The exploration noise in a_t, float32 [B, A]; None unless the clips tell it."""
    state: Tensor | None = None
    """The robot's state at o_t, float32 [B, S]; None unless the clips have one."""
    condition: Tensor | None = None
    """The condition of the window's clip, float32 [B, G]; None unless the clips have one."""
    latent_action: Tensor | None = None
    """The stored z_t of (o_t, o_{t+1}), float32 [B, Z]; None unless a latent set is read."""
    optical_flow: Tensor | None = None
    """Optical flow from o_t's newest frame to o_{t+1}'s, float32 [B, 2, h, w] along x and y, in
    pixels of the frame; None where preprocessing stored none."""
    next_mask: Tensor | None = None
    """float [B, 1, H, W], 1 where the newest frame of o_t or of o_{t+1} shows the agent, else 0; 1
    everywhere in clips without a mask. None if no clip has one."""
    future_mask: Tensor | None = None
    """Like ``next_mask``, of o_t and o_{t+k}."""

    def __post_init__(self) -> None:
        if not self.obs.shape == self.next_obs.shape == self.future_obs.shape:
            raise ValueError(
                "Window.obs, next_obs and future_obs must have one shape, got "
                f"{tuple(self.obs.shape)}, {tuple(self.next_obs.shape)} and "
                f"{tuple(self.future_obs.shape)}."
            )

    def __len__(self) -> int:
        return self.obs.shape[0]


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Result of the forward pass of every trained module."""

    loss: Tensor
    """Scalar, with gradient."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars, left on the device until a report step."""

    def __post_init__(self) -> None:
        if self.loss.ndim != 0:
            raise ValueError(f"LossOutput.loss must be a scalar, got {tuple(self.loss.shape)}.")


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """State of a policy between two steps, one row per episode.

    The caller passes it from step to step, so that many episodes run in one batch.
    """

    noise: Tensor | None = None
    """float [B, D]: x_0 of the previous step (`persistent` and `held` noise)."""
    noise_age_steps: Tensor | None = None
    """int64 [B]: number of steps that each episode has used its noise (`held`). A row that has
    reached ``noise_hold_steps`` draws new noise. Rows count their own steps, because episodes may
    begin at different times."""
    chunk: Tensor | None = None
    """float [B, Z], with chunks [B, H, Z]: the latent actions that the policy predicted last
    (chunks, `warm_start`)."""
    chunk_age_steps: Tensor | None = None
    """int64 [B]: number of steps of its chunk that each episode has executed (chunks)."""

    def rows(self, kept: Tensor) -> "PolicyState":
        """Returns the rows where ``kept``, bool [B], is true."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return PolicyState(**{n: None if v is None else v[kept] for n, v in values.items()})

    @staticmethod
    def where(is_first: Tensor, first: "PolicyState", other: "PolicyState") -> "PolicyState":
        """Takes rows of ``first`` where ``is_first``, bool [B], is true, else of ``other``."""
        return PolicyState(
            **{
                f.name: _chosen(is_first, getattr(first, f.name), getattr(other, f.name))
                for f in fields(first)
            }
        )


# No function inside ``where``: torch.compile of torch 2.7 fails on its annotation.
def _chosen(is_first: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Chooses rows of one field; None where the field is not used."""
    if a is None or b is None:
        return None
    return torch.where(is_first.view(-1, *[1] * (a.ndim - 1)), a, b)
