"""Checks a shard set against a model, and reads clips that are held out from training."""

from collections.abc import Iterator
from itertools import islice

import torch

from lafp.config import ConfigError
from lafp.data.labels import vector_dims
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.cache import ClipCache
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set
from lafp.data.stored_latents import clips_without_latents
from lafp.types import ClipBatch, ObsSpec

CLIPS_PER_BATCH = 8
MAX_VAL_CLIPS = 64
"""Number of held-out clips on which a training measures itself."""


def check_frame_size(shards: str, obs: ObsSpec) -> None:
    """Checks that the set's frames have the size that a model was trained on.

    Raises:
        ConfigError: They have another size.
    """
    spec = open_shard_set(shards)
    if (spec.height_px, spec.width_px) != (obs.height_px, obs.width_px):
        raise ConfigError(
            f"{shards} holds frames of {spec.height_px}x{spec.width_px} px, the latent action "
            f"model was trained on {obs.height_px}x{obs.width_px}. Preprocess to that size."
        )


def check_clip_lengths(shards: str, frame_stack: int, chunk_steps: int = 1) -> None:
    """Checks that the set's clips are long enough for windows and action chunks.

    Args:
        shards: URI of the shard set.
        frame_stack: Frames of an observation. A window is one frame longer.
        chunk_steps: Steps of an action chunk. Shorter clips are used as far as they go, but if no
            clip is this long, the last steps of a chunk are never learned.

    Raises:
        ConfigError: Some clip is shorter than a window, or no clip is as long as a chunk.
    """
    spec, needed = open_shard_set(shards), frame_stack + 1
    if spec.min_clip_frames < needed:
        raise ConfigError(
            f"The shortest clip of {shards} has {spec.min_clip_frames} frames, a window with "
            f"window.frame_stack {frame_stack} needs {needed}. Lower frame_stack, or preprocess "
            f"with clip.min_frames={needed}, under another name."
        )
    longest = spec.max_clip_frames - frame_stack
    if chunk_steps > longest:
        raise ConfigError(
            f"policy.chunk_steps is {chunk_steps}, but the longest clip of {shards} has "
            f"{longest} steps: the end of a chunk would never be learned. Lower chunk_steps (and "
            "execute_steps), or preprocess with a larger clip.max_s, under another name."
        )


def check_vectors(shards: str, obs: ObsSpec) -> None:
    """Checks that the set's clips have the vectors that a policy reads.

    Raises:
        ConfigError: They lack a vector, or have it in another size.
    """
    found = vector_dims(shards) if obs.vector_dim else {}
    for name, dim in obs.vector_dims.items():
        if found[name] != dim:
            raise ConfigError(
                f"The policy reads {name}s of {dim} numbers, the clips of {shards} have "
                f"{found[name] or 'none'}. Use labeled shards whose {name} is the same."
            )


class HeldOutClips:
    """Reads the first clips of a set's validation split, if it has one, in a fixed order.

    Args:
        shards: URI of the shard set.
        max_clips: Largest number of clips to read.
        latents: URI of a latent set of these clips, which is read too.
    """

    def __init__(self, shards: str, max_clips: int, latents: str | None = None) -> None:
        self.num_clips = min(max_clips, open_shard_set(shards).num_clips.get("val", 0))
        if self.num_clips:
            skipped = clips_without_latents(latents) if latents else frozenset()
            # A fixed seed, so that all runs measure on the same clips.
            self._order = ClipOrder(shard_set=shards, split="val", seed=0, skipped_clips=skipped)
            self.num_clips = min(self.num_clips, self._order.num_clips)
            # Every validation reads the same clips again, so what fits stays decoded.
            self._reader = ClipReader(shards, ClipCache(max_bytes=1 << 28), latents)

    def batches(self, device: torch.device) -> Iterator[ClipBatch]:
        """Yields the clips, up to ``CLIPS_PER_BATCH`` at a time. It leaves damaged ones out."""
        if not self.num_clips:
            return
        refs = list(islice(self._order.visits(), self.num_clips))
        for _, arrays in self._reader.sound_batches(refs, CLIPS_PER_BATCH):
            is_sound = arrays.pop("damaged")[:, 0] == 0  # stand-ins would be measured twice
            if not is_sound.any():
                continue
            tensors = {name: torch.from_numpy(array[is_sound]) for name, array in arrays.items()}
            yield ClipBatch(**tensors).to(device)
