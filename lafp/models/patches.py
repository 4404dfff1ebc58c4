"""Cuts frames into patches, and computes each patch's features: pixels, or frozen DINOv2's."""

# Shape suffixes in this file: B batch, C channels, H height, W width, P patches, D features.

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.models.dinov2 import (
    FrozenDinov2Config,
    keep_fingerprint,
    load_backbone,
    to_pixel_values,
)
from lafp.types import ObsSpec


class Patches(nn.Module):
    """Cuts observations into patches. A subclass has no trained parameters."""

    Config: Any
    num_patches: int
    """P, number of patches."""
    input_dim: int
    """Size of a patch's features in an observation, with all frames of the stack."""
    target_dim: int
    """Size of a patch's features in the newest frame, which an FDM predicts."""
    has_pixels: bool
    """Whether ``to_frame`` can turn predicted patches into a frame."""

    def forward(self, obs: Tensor) -> Tensor:
        """Maps observations, float [B, 3 F, H, W] in [-1, 1], to float [B, P, input_dim]."""
        raise NotImplementedError

    def newest(self, patches_BPD: Tensor) -> Tensor:
        """Takes the newest frame's features, float [B, P, target_dim], from ``forward``'s."""
        raise NotImplementedError

    def weights(self, weight: Tensor) -> Tensor:
        """Maps weights of pixels, float [B, 1, H, W], to float [B, P, target_dim] or [B, P, 1]."""
        raise NotImplementedError

    def to_frame(self, target_BPD: Tensor) -> Tensor:
        """Maps targets, float [B, P, target_dim], back to frames, float [B, 3, H, W]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PixelPatchesConfig:
    """Square patches of pixels."""

    name: str = "pixels"
    patch_px: int = 8
    """Side of a patch. It must divide the frame's height and width."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "patch_px")


class PixelPatches(Patches):
    """Uses the pixels of each square as its features."""

    Config = PixelPatchesConfig
    has_pixels = True

    def __init__(self, cfg: PixelPatchesConfig, obs: ObsSpec) -> None:
        super().__init__()
        if obs.height_px % cfg.patch_px or obs.width_px % cfg.patch_px:
            raise ValueError(
                f"patch_px {cfg.patch_px} does not divide frames of "
                f"{obs.height_px}x{obs.width_px} px."
            )
        self.patch_px, self._size_px = cfg.patch_px, (obs.height_px, obs.width_px)
        self.num_patches = obs.height_px * obs.width_px // cfg.patch_px**2
        self.input_dim = obs.num_channels * cfg.patch_px**2
        self.target_dim = 3 * cfg.patch_px**2

    def forward(self, obs: Tensor) -> Tensor:
        """See ``Patches``."""
        return F.pixel_unshuffle(obs, self.patch_px).flatten(2).transpose(1, 2)

    def newest(self, patches_BPD: Tensor) -> Tensor:
        """See ``Patches``."""
        return patches_BPD[..., -self.target_dim :]

    def weights(self, weight: Tensor) -> Tensor:
        """See ``Patches``."""
        return self(weight.expand(-1, 3, -1, -1))

    def to_frame(self, target_BPD: Tensor) -> Tensor:
        """See ``Patches``."""
        grid = [size // self.patch_px for size in self._size_px]
        return F.pixel_shuffle(target_BPD.transpose(1, 2).unflatten(2, grid), self.patch_px)


@dataclass(frozen=True, kw_only=True)
class Dinov2PatchesConfig(FrozenDinov2Config):
    """Patch features of a frozen DINOv2."""


class Dinov2Patches(Patches):
    """Uses the output of DINOv2's last layer, normalized per patch, for the newest frame.

    DINOv2 is not a submodule, because engines would shard it and saved models would copy it,
    although it never changes. ``forward`` moves it to the device of its input. The fingerprint of
    its folder is stored with the model, and checked when the model is loaded.
    """

    Config = Dinov2PatchesConfig
    has_pixels = False

    def __init__(self, cfg: Dinov2PatchesConfig, obs: ObsSpec) -> None:
        super().__init__()
        backbone, sha256 = load_backbone(Path(cfg.path))
        if cfg.image_size_px % backbone.config.patch_size:
            raise ValueError(
                "image_size_px must be a multiple of DINOv2's patch "
                f"({backbone.config.patch_size} px), got {cfg.image_size_px}."
            )
        self.cfg = cfg
        self._frozen = (backbone.eval().requires_grad_(False),)  # a tuple hides it from torch
        self.frozen_weights = keep_fingerprint(self, cfg, backbone, sha256)
        """Entry for ``model.json`` of a model that contains these patches."""
        self.num_patches = (cfg.image_size_px // backbone.config.patch_size) ** 2
        self.input_dim = self.target_dim = backbone.config.hidden_size

    @torch.no_grad()
    def forward(self, obs: Tensor) -> Tensor:
        """See ``Patches``. It computes no gradients."""
        backbone = self._frozen[0]
        if backbone.device != obs.device:
            backbone.to(obs.device)
        pixels = to_pixel_values(obs[:, -3:], self.cfg.image_size_px)
        hidden = backbone(pixel_values=pixels).last_hidden_state
        patches_BPD = hidden[:, 1:].float()  # after the class token
        return F.layer_norm(patches_BPD, patches_BPD.shape[-1:])

    def newest(self, patches_BPD: Tensor) -> Tensor:
        """See ``Patches``."""
        return patches_BPD

    def weights(self, weight: Tensor) -> Tensor:
        """See ``Patches``. A patch counts by its share of weight."""
        side = math.isqrt(self.num_patches)
        return F.adaptive_avg_pool2d(weight, (side, side)).flatten(2).transpose(1, 2)
