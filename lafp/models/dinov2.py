"""An encoder of frozen DINOv2 features, from a local folder, with a small trained layer."""

# Shape suffixes in this file: B batch, F frames of a stack, N tokens, D width of DINOv2.

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.device_constants import device_constant
from lafp.models.encoders import Encoder
from lafp.models.hugging_face import (
    CARD,
    files_sha256,
    load_pretrained,
    model_files,
    read_card,
)
from lafp.types import ObsSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FINGERPRINT = "fingerprint"


@dataclass(frozen=True, kw_only=True)
class FrozenDinov2Config:
    """A frozen DINOv2 (Oquab et al., arXiv:2304.07193). Needs ``pip install 'lafp[dinov2]'``."""

    name: str = "dinov2"
    path: str
    """Local folder as on the Hugging Face hub: ``config.json`` and ``*.safetensors``. It must be at
    the same path on every node, and wherever the trained model is loaded, because the trained model
    does not store DINOv2's weights."""
    image_size_px: int = 224
    """Frames are resized to this height and width; a multiple of DINOv2's patch (14)."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "image_size_px")


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(FrozenDinov2Config):
    """Features of a frozen DINOv2, and a layer that is trained on them."""

    grid_size: int = 4
    """Patch tokens are averaged within each cell of a grid of this height and width. A finer grid
    keeps positions better."""
    embed_dim: int = 256
    """E, size of the embedding, which a trained linear layer computes from the features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "grid_size", "embed_dim")


class Dinov2(Encoder):
    """Concatenates every frame's class token and averaged patch tokens, then applies a layer.

    DINOv2's own weights have no gradient, are always in eval mode, and are not part of the state
    dict. The state dict has a fingerprint of the folder instead, which is checked on loading.
    """

    Config = Dinov2Config

    def __init__(self, cfg: Dinov2Config, obs: ObsSpec) -> None:
        super().__init__(obs)
        self.cfg = cfg
        backbone, sha256 = load_backbone(Path(cfg.path))
        _check_image_size(cfg, backbone.config.patch_size)
        self.frozen_weights = keep_fingerprint(self, cfg, backbone, sha256)
        """Entry for ``model.json`` of a model that contains this encoder."""
        self.backbone = backbone.eval().requires_grad_(False)
        self.embed_dim = cfg.embed_dim
        features_dim = (1 + cfg.grid_size**2) * backbone.config.hidden_size * obs.frame_stack
        self.layers = nn.Sequential(nn.Linear(features_dim, cfg.embed_dim), nn.ReLU())
        self.register_state_dict_post_hook(_leave_out_backbone)
        self.register_load_state_dict_pre_hook(_put_back_backbone)

    def forward(self, obs: Tensor) -> Tensor:
        """See ``Encoder``."""
        self.check_shape(obs)
        frames = obs.unflatten(1, (-1, 3)).flatten(0, 1)  # [B F, 3, H, W]
        with torch.no_grad():
            features = self.frame_features(frames)
        return self.layers(features.unflatten(0, (len(obs), -1)).flatten(1))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the trained layer. DINOv2 itself stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def frame_features(self, frames: Tensor) -> Tensor:
        """Maps frames in [-1, 1], [B F, 3, H, W], to [B F, (1 + grid_size^2) D]."""
        size = self.cfg.image_size_px
        pixels = to_pixel_values(frames, size).to(frames.dtype)
        tokens = self.backbone(pixel_values=pixels).last_hidden_state
        side = size // self.backbone.config.patch_size
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        pooled = F.adaptive_avg_pool2d(patches, self.cfg.grid_size).flatten(1)
        return torch.cat([tokens[:, 0], pooled], dim=1)


def to_pixel_values(frames: Tensor, size_px: int) -> Tensor:
    """Resizes and normalizes frames for DINOv2.

    Args:
        frames: Float [B, 3, H, W] in [-1, 1].
        size_px: Height and width that DINOv2 sees.

    Returns:
        float32 [B, 3, size_px, size_px].
    """
    pixels = F.interpolate(  # in float32, because a CPU cannot resize bf16
        (frames.float() + 1) / 2,
        (size_px, size_px),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    mean, std = (
        device_constant(values, pixels.device, pixels.dtype)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels - mean) / std


def load_backbone(folder: Path) -> tuple[Any, str]:
    """Loads DINOv2 from a folder.

    Returns:
        The model, and the SHA-256 of its config and weight files.

    Raises:
        ConfigError: The folder holds no DINOv2, or transformers is not installed.
    """
    try:
        from transformers import Dinov2Model
    except ImportError:
        raise ConfigError(
            "Encoder dinov2 needs the package transformers: pip install 'lafp[dinov2]'."
        ) from None
    files = backbone_files(folder)
    return load_pretrained(Dinov2Model, folder), files_sha256(files)


def keep_fingerprint(
    module: nn.Module, cfg: FrozenDinov2Config, backbone: Any, sha256: str
) -> dict[str, object]:
    """Stores the hash of a DINOv2 in the state dict of the module that uses it.

    When a state dict is loaded that was trained with another DINOv2, that is a ConfigError.

    Returns:
        The entry for ``model.json`` of a model that contains the module.
    """
    fingerprint = torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)
    module.register_buffer(FINGERPRINT, fingerprint)
    module.register_load_state_dict_pre_hook(partial(_check_fingerprint, cfg.path))
    return {"path": cfg.path, "sha256": sha256, "config": backbone.config.to_dict()}


def _check_fingerprint(
    path: str, module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: object
) -> None:
    del unused
    found = module.get_buffer(FINGERPRINT).cpu()
    trained_with = state_dict.get(prefix + FINGERPRINT)
    if trained_with is not None and not torch.equal(trained_with.cpu(), found):
        hashes = [bytes(sha256.tolist()).hex()[:12] for sha256 in (trained_with, found)]
        raise ConfigError(
            f"The model was trained with another DINOv2 (sha256 {hashes[0]}) than the one at "
            f"{path} (sha256 {hashes[1]}). Put the former at that path."
        )


def backbone_sha256(folder: str) -> str:
    """Hashes the config and the weights of a DINOv2, without loading them.

    Raises:
        ConfigError: The folder holds no DINOv2.
    """
    return files_sha256(backbone_files(Path(folder)))


def backbone_files(folder: Path) -> list[Path]:
    """Lists ``config.json`` and the weights of a DINOv2.

    Raises:
        ConfigError: The folder holds no DINOv2, or another model.
    """
    files = model_files(
        folder,
        "DINOv2",
        "facebook/dinov2-base. A trained model does not hold a copy: put the folder that it was "
        "trained with at this path.",
    )
    kind = read_card(folder).get("model_type")
    if kind != "dinov2":
        raise ConfigError(f"{folder / CARD} describes a model of type {kind!r}, expected 'dinov2'.")
    return files


def _check_image_size(cfg: Dinov2Config, patch_size_px: int) -> None:
    if cfg.image_size_px % patch_size_px:
        raise ConfigError(
            f"encoder.image_size_px must be a multiple of DINOv2's patch of {patch_size_px} px, "
            f"got {cfg.image_size_px}."
        )
    if cfg.grid_size > cfg.image_size_px // patch_size_px:
        raise ConfigError(
            f"encoder.grid_size must be at most {cfg.image_size_px // patch_size_px}, the patches "
            f"along a side, got {cfg.grid_size}."
        )


def _leave_out_backbone(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    del module, local_metadata
    for key in [key for key in state_dict if key.startswith(f"{prefix}backbone.")]:
        del state_dict[key]


def _put_back_backbone(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: object
) -> None:
    del unused
    assert isinstance(module, Dinov2)
    for key, value in module.backbone.state_dict().items():
        state_dict[f"{prefix}backbone.{key}"] = value
