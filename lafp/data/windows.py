"""Cuts clips into windows, on the device."""

# Shape suffixes in this file: B clips, N windows (B x windows_per_clip), T frames of a clip,
# F frames of a stack, H height, W width, C channels, V vectors beside the image.

import torch
from torch import Tensor

from lafp.config import ConfigError
from lafp.data.masks import unpacked
from lafp.data.order.window_draws import WindowConfig, draw_windows
from lafp.types import ClipBatch, ObsSpec, Window


def cut_windows(batch: ClipBatch, cfg: WindowConfig, seed: int) -> Window:
    """Cuts ``windows_per_clip`` random windows from every clip, on the clips' device.

    Args:
        batch: B clips.
        cfg: Frame stack, K, windows per clip.
        seed: The run's seed.

    Returns:
        N = B x windows_per_clip windows. The windows of a clip are neighbours.
    """
    return windows_at(batch, *window_indices(batch, cfg, seed), cfg.frame_stack)


def window_indices(batch: ClipBatch, cfg: WindowConfig, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns clip, t and k of the windows of ``cut_windows``: int64 [N] each, on the host."""
    num_frames_B, epoch_B, clip_key_B = (
        of_clips.numpy() for of_clips in (batch.num_frames, batch.epoch, batch.clip_key)
    )
    t_BN, k_BN = draw_windows(num_frames_B, epoch_B, clip_key_B, cfg, seed)
    clip_N = torch.arange(len(t_BN)).repeat_interleave(cfg.windows_per_clip)
    return clip_N, torch.from_numpy(t_BN).reshape(-1), torch.from_numpy(k_BN).reshape(-1)


def following_steps(
    batch: ClipBatch, clip_N: Tensor, t_N: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Returns the times t, t + 1, ... of ``num_steps`` single-step windows in a row.

    Args:
        batch: B clips.
        clip_N: Clip of each row, int64 [N] on the host.
        t_N: First time of each row, int64 [N] on the host.
        num_steps: Number of windows per row.

    Returns:
        int64 and bool [N, num_steps], on the host: the times, and whether the clip has them. A time
        beyond the clip is replaced by the time of its last window.
    """
    at_NH = t_N[:, None] + torch.arange(num_steps)
    # The last frame begins no step, because no frame follows it.
    last_N1 = batch.num_frames[clip_N][:, None] - 2
    return torch.minimum(at_NH, last_N1), at_NH <= last_N1


def windows_at(
    batch: ClipBatch, clip_N: Tensor, t_N: Tensor, k_N: Tensor, frame_stack: int
) -> Window:
    """Cuts the windows (clip, t, k), int64 [N] each. Indices on the host avoid a device sync."""
    # The indices are still on the host here, so the question costs no wait for the device.
    is_single_step = bool((k_N == 1).all())
    device = batch.frames.device
    clip_N, t_N, k_N = (i.to(device, non_blocking=True) for i in (clip_N, t_N, k_N))
    obs = _stacks_of(batch, clip_N, t_N, frame_stack)
    next_obs = _stacks_of(batch, clip_N, t_N + 1, frame_stack)
    next_mask = _mask_of(batch, clip_N, t_N, t_N + 1)
    # With k = 1 the next frame is the future one as well, so it is gathered only once.
    return Window(
        obs=obs,
        next_obs=next_obs,
        future_obs=(
            next_obs if is_single_step else _stacks_of(batch, clip_N, t_N + k_N, frame_stack)
        ),
        offset_steps=k_N,
        true_action=None if batch.true_action is None else batch.true_action[clip_N, t_N],
        action_noise=None if batch.action_noise is None else batch.action_noise[clip_N, t_N],
        state=None if batch.state is None else batch.state[clip_N, t_N],
        condition=None if batch.condition is None else batch.condition[clip_N],
        latent_action=None if batch.latent_action is None else batch.latent_action[clip_N, t_N],
        optical_flow=None if (flow := batch.optical_flow) is None else flow[clip_N, t_N].float(),
        next_mask=next_mask,
        future_mask=(next_mask if is_single_step else _mask_of(batch, clip_N, t_N, t_N + k_N)),
    )


def vector_inputs(window: Window, obs: ObsSpec) -> Tensor | None:
    """Joins the vectors that a policy reads beside the image: float32 [N, V]; None without any.

    Raises:
        ConfigError: Some clips lack a vector, or have it in another size.
    """
    vectors = []
    for name, dim in obs.vector_dims.items():
        vector_NV = getattr(window, name)
        if vector_NV is None or vector_NV.shape[1] != dim:
            raise ConfigError(
                f"Some clips have no {name} of {dim} numbers: a policy that reads the {name} needs "
                "it in all clips."
            )
        vectors.append(vector_NV)
    return torch.cat(vectors, dim=1) if vectors else None


def stack_frames(frames: Tensor, clip_N: Tensor, t_N: Tensor, frame_stack: int) -> Tensor:
    """Stacks the frames at times t: uint8 [B, T, H, W, 3] -> float [N, 3 F, H, W] in [-1, 1]."""
    return _stacked(frames, clip_N, _times(t_N, frame_stack))


def _stacks_of(batch: ClipBatch, clip_N: Tensor, t_N: Tensor, frame_stack: int) -> Tensor:
    """Stacks frames like ``stack_frames``, from clips of which only some frames may be sent."""
    rows_NF = _rows(batch, clip_N[:, None], _times(t_N, frame_stack))
    return _stacked(batch.frames, clip_N, rows_NF)


def _mask_of(batch: ClipBatch, clip_N: Tensor, t_N: Tensor, later_N: Tensor) -> Tensor | None:
    """Returns the union of the agent's pixels at two times, float [N, 1, H, W]."""
    if batch.mask is None:
        return None
    # Both, because the pixels that the agent leaves change as much as those that it moves to.
    now, later = (batch.mask[clip_N, _rows(batch, clip_N, at_N)] for at_N in (t_N, later_N))
    return unpacked(now | later, batch.frames.shape[3])


def _rows(batch: ClipBatch, clip: Tensor, times: Tensor) -> Tensor:
    """Returns where the frames at these times lie in ``batch.frames``."""
    return times if batch.frame_rows is None else batch.frame_rows[clip, times].long()


def _times(t_N: Tensor, frame_stack: int) -> Tensor:
    return t_N[:, None] + torch.arange(1 - frame_stack, 1, device=t_N.device)


def _stacked(frames: Tensor, clip_N: Tensor, rows_NF: Tensor) -> Tensor:
    stacks_NFHWC = frames[clip_N[:, None], rows_NF]
    # The colours of a pixel stay side by side in memory (channels last), as encoders need them.
    stacks_NHWC = torch.cat(stacks_NFHWC.unbind(1), dim=-1)
    return pixels_to_float(stacks_NHWC).permute(0, 3, 1, 2)


def pixels_to_float(pixels: Tensor) -> Tensor:
    """Converts uint8 0..255 to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)
