"""The features that are probed: latent actions, and what else tells an action from two frames.

A latent action model is measured beside its controls, or a frozen encoder alone beside its own.
"""

# Shape suffixes in this file: N pairs, D features.

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.evaluate.latents.pair_algebra import PairFeatures
from lafp.evaluate.probes.lam_probe import untrained
from lafp.lam import Lam
from lafp.models.dinov2 import Dinov2, Dinov2Config
from lafp.types import ObsSpec, Window

LAM, EMBEDDING, RANDOM_LAM = "lam", "embedding", "random_lam"
PIXEL_DIFFERENCE, DINOV2_DIFFERENCE = "pixel_difference", "dinov2_difference"
ENCODER_PAIR, ENCODER_DIFFERENCE = "encoder_pair", "encoder_difference"
ENCODER_FRAME = "encoder_frame"
SUBJECTS = (LAM, ENCODER_PAIR)
"""The methods that an evaluation is about. It has one of them."""
MAX_SIDE_PX = 32
"""Pixel differences are averaged down to at most this height and width."""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Features of a window, and of any two observations where they depend on two."""

    of_window: Callable[[Window], Tensor]
    of_pair: PairFeatures | None


def subject_of(methods: Container[str]) -> str | None:
    """Returns the one of ``SUBJECTS`` that was measured; None if none was."""
    return next((method for method in SUBJECTS if method in methods), None)


def methods(dinov2: str | None, encoder: str | None) -> list[str]:
    """Lists the representations to measure, the subject first.

    Args:
        dinov2: Folder of a DINOv2 that is a control of the LAM.
        encoder: Folder of the encoder that is measured in place of a LAM.
    """
    if encoder:
        return [ENCODER_PAIR, ENCODER_DIFFERENCE, ENCODER_FRAME, PIXEL_DIFFERENCE]
    found = [LAM, EMBEDDING, RANDOM_LAM, PIXEL_DIFFERENCE]
    return [*found, DINOV2_DIFFERENCE] if dinov2 else found


def representation(method: str, lam: Lam, dinov2: str | None, seed: int) -> Representation:
    """Makes one representation of a LAM's evaluation.

    Args:
        method: One of ``methods``.
        lam: The latent action model.
        dinov2: Folder of DINOv2's weights.
        seed: Of the untrained model's weights.

    Raises:
        ConfigError: The folder holds no DINOv2.
    """
    if method == EMBEDDING:
        return Representation(of_window=lambda window: lam.embed(window.obs), of_pair=None)
    of_pair: PairFeatures = pixel_difference
    if method == LAM:
        of_pair = lam.infer_latent_action
    elif method == RANDOM_LAM:
        random_lam = untrained(lam.objective, seed).to(lam.device)
        of_pair = random_lam.infer_latent_action
    elif method == DINOV2_DIFFERENCE:
        of_pair = dinov2_difference(dinov2 or "", lam.obs, lam.device)
    return Representation(
        of_window=lambda window: of_pair(window.obs, window.next_obs), of_pair=of_pair
    )


def pixel_difference(obs: Tensor, next_obs: Tensor) -> Tensor:
    """Returns the difference of the newest frames, averaged down, float [N, D]."""
    height, width = (min(MAX_SIDE_PX, side) for side in obs.shape[-2:])
    return F.adaptive_avg_pool2d(next_obs[:, -3:] - obs[:, -3:], (height, width)).flatten(1)


def dinov2_difference(folder: str, obs: ObsSpec, device: torch.device) -> PairFeatures:
    """Returns the map from two observations to the difference of frozen DINOv2 features."""
    features = _frame_features(folder, obs, device)

    def difference(obs: Tensor, next_obs: Tensor) -> Tensor:
        now, then = features(torch.cat([obs, next_obs])).chunk(2)
        return then - now

    return difference


def encoder_representation(
    method: str, folder: str, obs: ObsSpec, device: torch.device
) -> Representation:
    """Makes one representation of a frozen encoder's evaluation.

    These representations have no features of arbitrary pairs: differences add up by construction,
    and the features of two frames side by side are no displacement.

    Args:
        method: One of ``methods``.
        folder: Folder of the encoder's weights.
        obs: Size of the frames.
        device: Computes the features.

    Raises:
        ConfigError: The folder holds no DINOv2.
    """
    if method == PIXEL_DIFFERENCE:
        return Representation(
            of_window=lambda window: pixel_difference(window.obs, window.next_obs), of_pair=None
        )
    features = _frame_features(folder, obs, device)

    def of_window(window: Window) -> Tensor:
        if method == ENCODER_FRAME:
            return features(window.obs)
        now, then = features(torch.cat([window.obs, window.next_obs])).chunk(2)
        return then - now if method == ENCODER_DIFFERENCE else torch.cat([now, then], dim=1)

    return Representation(of_window=of_window, of_pair=None)


def _frame_features(folder: str, obs: ObsSpec, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns the map from observations to frozen features of their newest frames."""
    frame = ObsSpec(height_px=obs.height_px, width_px=obs.width_px, frame_stack=1, fps=obs.fps)
    encoder = cast(Dinov2, Dinov2(Dinov2Config(path=folder), frame).to(device).eval())

    @torch.no_grad()
    def features(obs: Tensor) -> Tensor:
        return encoder.frame_features(obs[:, -3:])

    return features
