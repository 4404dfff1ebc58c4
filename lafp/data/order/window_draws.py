"""Draws the windows of a clip: the same ones where its frames are read and where they are cut."""

# Shape suffixes in this file: B clips, N windows of a clip.

from dataclasses import dataclass

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_uniform

_DRAW_K, _DRAW_T = 1, 2  # keys of a window's two draws


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Says which frames of a clip make one training window."""

    frame_stack: int = 1
    """F, frames per observation (LAOM: 3)."""
    max_offset_steps: int = 1
    """K: the IDM sees o_t and o_{t+k}, k ~ U{1..K} (LAOM: 10)."""
    windows_per_clip: int = 4
    """Windows drawn from a clip each time it is visited. They lie in one batch, because they share
    the decoding of the clip."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "frame_stack", "max_offset_steps", "windows_per_clip")

    @property
    def min_clip_frames(self) -> int:
        """Returns the number of frames of the shortest window: F and one more."""
        return self.frame_stack + 1


def draw_windows(
    num_frames_B: np.ndarray,
    epoch_B: np.ndarray,
    clip_key_B: np.ndarray,
    cfg: WindowConfig,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws k, then t, uniformly among the windows t-F+1 .. t+k that fit into the clip.

    The draws are keyed by (seed, epoch, clip, window index), so they are the same on any number of
    workers.

    Args:
        num_frames_B: T of each clip, int64 [B].
        epoch_B: Number of the visit to the clip, int64 [B].
        clip_key_B: ``ClipLocation.key``, int64 [B].
        cfg: Frame stack, K, windows per clip.
        seed: The run's seed.

    Returns:
        t and k, int64 [B, windows_per_clip].

    Raises:
        ConfigError: A clip is shorter than a window.
    """
    num_frames_B1 = num_frames_B[:, None]
    keys = seed, epoch_B[:, None], clip_key_B[:, None], np.arange(cfg.windows_per_clip)
    if num_frames_B1.min() < cfg.min_clip_frames:
        raise ConfigError(
            f"A clip has {num_frames_B1.min()} frames, a window needs {cfg.min_clip_frames}: "
            "lower frame_stack, or preprocess with a larger clip.min_frames."
        )
    max_k_B1 = np.minimum(cfg.max_offset_steps, num_frames_B1 - cfg.frame_stack)
    k_BN = 1 + (keyed_uniform(*keys, _DRAW_K) * max_k_B1).astype(np.int64)
    num_starts_BN = num_frames_B1 - k_BN - (cfg.frame_stack - 1)
    t_BN = cfg.frame_stack - 1 + (keyed_uniform(*keys, _DRAW_T) * num_starts_BN).astype(np.int64)
    return t_BN, k_BN


@dataclass(frozen=True, kw_only=True)
class WindowDraws:
    """Names the windows that a task cuts from a stream, so that readers decode no other frames."""

    window: WindowConfig
    seed: int
    chunk_steps: int = 1
    """H: the windows at t, t + 1, ..., t + H - 1 are cut too, as far as the clip has them."""

    @property
    def max_frames(self) -> int:
        """Returns the largest number of frames that the windows of one clip show."""
        cfg = self.window
        # With k = 1 the future stack is the next one, which is counted already.
        of_future = cfg.frame_stack if cfg.max_offset_steps > 1 else 0
        return cfg.windows_per_clip * (cfg.frame_stack + self.chunk_steps + of_future)

    def frames_of(
        self, num_frames_B: np.ndarray, epoch_B: np.ndarray, clip_key_B: np.ndarray
    ) -> list[np.ndarray]:
        """Lists the frames of each clip's windows, ascending, int64. See ``draw_windows``."""
        t_BN, k_BN = draw_windows(num_frames_B, epoch_B, clip_key_B, self.window, self.seed)
        stack = np.arange(1 - self.window.frame_stack, 1)
        chunk = np.arange(1 - self.window.frame_stack, self.chunk_steps + 1)
        return [
            np.unique(
                np.append(
                    # A chunk that passes the clip's end repeats the last step
                    # (``following_steps``).
                    np.minimum(t_N[:, None] + chunk, num_frames - 1),
                    (t_N + k_N)[:, None] + stack,
                )
            )
            for num_frames, t_N, k_N in zip(num_frames_B, t_BN, k_BN, strict=True)
        ]
