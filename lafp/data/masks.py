"""Reads the agent's pixels from the packed masks of clips, on the device."""

# Shape suffixes in this file: B clips, N windows, H height, W width.

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lafp.data.randomness import derive_seed, keyed_uniform
from lafp.data.shards.clip_tables import clip_batches
from lafp.data.shards.format import clip_key
from lafp.types import ClipBatch

_FULL = 0xFF  # a byte of pixels that all show the agent


def keep_masks(batch: ClipBatch, fraction: float, seed: int) -> ClipBatch:
    """Keeps the masks of a random share of the clips. Other clips count as without a mask.

    Args:
        batch: B clips.
        fraction: Share in (0, 1]. Each clip is drawn by its key, so a larger share of the same seed
            holds a smaller one.
        seed: Seed of the draw.
    """
    if batch.mask is None or fraction == 1:
        return batch
    is_kept_B = torch.from_numpy(_draws(batch.clip_key.numpy(), seed) < fraction)
    is_kept_B = is_kept_B.to(batch.mask.device, non_blocking=True)
    full = torch.full((), _FULL, dtype=torch.uint8, device=batch.mask.device)
    return replace(batch, mask=torch.where(is_kept_B.view(-1, 1, 1, 1), batch.mask, full))


def count_masks(shards: str, fraction: float, seed: int) -> int:
    """Counts the training clips of a shard set whose masks ``keep_masks`` keeps."""
    num_kept = 0
    for batch in clip_batches(shards, {"clip_id": str}, {"split": "train", "has_mask": True}):
        ids = batch["clip_id"].to_pylist()
        keys = np.fromiter(map(clip_key, ids), np.int64, len(ids))
        num_kept += int((_draws(keys, seed) < fraction).sum())
    return num_kept


def _draws(clip_key_B: np.ndarray, seed: int) -> np.ndarray:
    return keyed_uniform(derive_seed(seed, "mask"), clip_key_B)


def unpacked(mask_NHX: Tensor, width_px: int) -> Tensor:
    """Unpacks one bit per pixel, uint8 [N, H, ceil(W / 8)] -> float [N, 1, H, W] of 0 and 1."""
    shifts = torch.arange(7, -1, -1, device=mask_NHX.device, dtype=torch.uint8)
    bits = (mask_NHX[..., None] >> shifts) & 1
    return bits.flatten(2)[:, None, :, :width_px].float()
