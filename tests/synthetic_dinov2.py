"""A tiny DINOv2 with random weights, as the Hugging Face hub's folders are."""

from pathlib import Path

import torch


def write_dinov2(folder: Path, seed: int = 0) -> Path:
    """Writes ``config.json`` and ``model.safetensors``; 16 wide, patches of 14 px."""
    from transformers import Dinov2Config, Dinov2Model  # seconds of every collection of tests

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder
