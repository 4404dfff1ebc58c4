"""What crosses module borders. Every type checks its own shapes.

Shape letters: B batch (clips or windows), T frames of a clip, C channels, F frames of a stack,
H height, W width, Z latent action, A true action, S state, G condition, V vectors side by side.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from lafp.device_constants import device_constant


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """What one true action is, in the environment's units."""

    dim: int
    """Number of values; for discrete actions the number of choices."""
    is_discrete: bool = False
    low: tuple[float, ...] = ()
    """Lower bound per dimension (continuous only)."""
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.is_discrete and not len(self.low) == len(self.high) == self.dim:
            raise ValueError(
                f"A continuous action of {self.dim} dimensions needs as many bounds, "
                f"got {len(self.low)} low and {len(self.high)} high."
            )

    def normalize(self, action: Tensor) -> Tensor:
        """Environment units -> [-1, 1] per dimension. Constant dimensions become 0."""
        low, high = self._bounds(action)
        return (2 * action - low - high) / torch.where(high > low, high - low, 1.0)

    def denormalize(self, action: Tensor) -> Tensor:
        """[-1, 1] per dimension -> environment units."""
        low, high = self._bounds(action)
        return (action * (high - low) + low + high) / 2

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_discrete:
            raise ValueError("Discrete actions have no bounds to normalize by.")
        low, high = (device_constant(v, like.device, like.dtype) for v in (self.low, self.high))
        return low, high


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """What a model sees. Stored with every model, checked at deployment."""

    height_px: int
    width_px: int
    frame_stack: int
    """F, frames per observation, oldest first along the channels."""
    fps: float
    """Frames per second: one step is 1/fps seconds."""
    state_dim: int = 0
    """S, numbers of the robot's state (proprioception) that a policy reads too; 0 is none."""
    condition_dim: int = 0
    """Numbers of the condition (task id, embedding of a text or a goal) that a policy reads too."""

    @property
    def num_channels(self) -> int:
        """3 F."""
        return 3 * self.frame_stack

    @property
    def vector_dims(self) -> dict[str, int]:
        """Sizes of the vectors that a policy reads beside the image, in their order."""
        dims = {"state": self.state_dim, "condition": self.condition_dim}
        return {name: dim for name, dim in dims.items() if dim}

    @property
    def vector_dim(self) -> int:
        """V, size of these vectors side by side."""
        return self.state_dim + self.condition_dim


PER_FRAME = ("true_action", "state", "latent_action", "flow")
"""Fields of ``ClipBatch`` that only some shard sets have, [B, T, ...]."""


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Decoded clips, as they cross the wire: a frame once, however many windows use it."""

    frames: Tensor
    """uint8 [B, T, H, W, 3], padded at the end to a common T; with ``frame_rows`` fewer rows."""
    num_frames: Tensor
    """int64 [B]: how many of T are real."""
    clip_key: Tensor
    """int64 [B]: 63 bits of the clip id; keys the clip's random draws."""
    epoch: Tensor
    """int64 [B]: which visit to the clip this is; keys its random draws too."""
    true_action: Tensor | None = None
    """float32 [B, T, A] (discrete: int64 [B, T]): row t acts between frames t and t+1."""
    state: Tensor | None = None
    """float32 [B, T, S], where all clips have one: the robot's own, as it was at frame t."""
    condition: Tensor | None = None
    """float32 [B, G], where all clips have one: what the episode is to do."""
    latent_action: Tensor | None = None
    """float32 [B, T, Z], where a latent set is read: row t is that of frames (t, t + 1)."""
    flow: Tensor | None = None
    """float16 [B, T, 2, h, w], where preprocessing stored it: row t from frame t to t + 1."""
    frame_rows: Tensor | None = None
    """int32 [B, T], where only the frames of the windows were sent: frame t is row
    ``frame_rows[b, t]`` of ``frames[b]``. A row that there is not where it was not sent."""
    damaged: Tensor | None = None
    """int64 [B, 2]: where a clip could not be read and another stands in for it, the key of that
    clip and why, an index into ``lafp.data.shards.damage.REASONS``; else zeros."""

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
        """The batch with frames and labels on ``device``.

        ``num_frames``, ``clip_key``, ``epoch`` and ``damaged`` stay on the host: they are needed
        there, and asking a GPU for them would make every step wait for it.
        """
        return replace(
            self,
            frames=_sent(self.frames, device),
            **{
                name: _sent(getattr(self, name), device)
                for name in (*PER_FRAME, "condition", "frame_rows")
                if getattr(self, name) is not None
            },
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for it: a GPU copies in the background from pinned memory."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Window:
    """What training samples: observations one step and k steps apart, on the device.

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
    state: Tensor | None = None
    """The robot's state at o_t, float32 [B, S], where the clips have it."""
    condition: Tensor | None = None
    """That of the window's clip, float32 [B, G], where the clips have it."""
    latent_action: Tensor | None = None
    """The stored z_t of (o_t, o_{t+1}), float32 [B, Z], where a latent set is read."""
    flow: Tensor | None = None
    """Optical flow from o_t's newest frame to o_{t+1}'s, float32 [B, 2, h, w] along x and y, in
    pixels of the frame; None where preprocessing stored none."""

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
    """What every forward pass of a trained module returns."""

    loss: Tensor
    """Scalar, with gradient."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars, left on the device until a report step."""

    def __post_init__(self) -> None:
        if self.loss.ndim != 0:
            raise ValueError(f"LossOutput.loss must be a scalar, got {tuple(self.loss.shape)}.")


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """What a policy remembers between the steps of its episodes. Explicit, so episodes batch."""

    noise: Tensor | None = None
    """float [B, D]: x_0 of the previous step (`persistent` and `held` noise)."""
    noise_age_steps: Tensor | None = None
    """int64 [B]: steps that each episode has had its noise (`held`). A row that has reached
    ``noise_hold_steps`` draws anew, so that episodes may begin at different steps."""
    plan: Tensor | None = None
    """float [B, Z], or [B, H, Z] where chunks are planned: latent actions as they were planned
    last (chunks, `warm_start`)."""
    plan_age_steps: Tensor | None = None
    """int64 [B]: how many of its plan's steps each episode has taken (chunks)."""

    @staticmethod
    def where(is_first: Tensor, first: "PolicyState", other: "PolicyState") -> "PolicyState":
        """Rows of ``first`` where ``is_first``, bool [B], of ``other`` elsewhere."""

        def chosen(name: str) -> Tensor | None:
            a, b = getattr(first, name), getattr(other, name)
            if a is None or b is None:
                return None
            return torch.where(is_first.view(-1, *[1] * (a.ndim - 1)), a, b)

        return PolicyState(**{f.name: chosen(f.name) for f in fields(first)})
