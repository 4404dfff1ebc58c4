"""Checks that shard sets hold the frames, optical flow and masks that a LAM trains on."""

from lafp.config import ConfigError
from lafp.data.masks import count_masks
from lafp.data.shards.sets import open_shard_set
from lafp.objectives.base import Objective
from lafp.types import ObsSpec


def obs_spec(shards: str, frame_stack: int) -> ObsSpec:
    """Returns the size and rate of a shard set's observations.

    Raises:
        ConfigError: There is no such set, or its clips have no common frame rate.
    """
    spec = open_shard_set(shards)
    if spec.fps is None:
        raise ConfigError(
            f"The clips of {shards} keep the frame rates of their videos, so a step has no fixed "
            "length. Preprocess them again with one, e.g. clip.fps=10, under another name."
        )
    return ObsSpec(
        height_px=spec.height_px, width_px=spec.width_px, frame_stack=frame_stack, fps=spec.fps
    )


def check_optical_flow(shards: str, objective: Objective) -> None:
    """Raises ConfigError if the set lacks the optical flow that the objective needs."""
    stored, wanted = open_shard_set(shards).optical_flow_size_px, objective.optical_flow_size_px
    if wanted is not None and (stored is None or tuple(stored) != wanted):
        found = f"one of {stored[0]}x{stored[1]} px" if stored else "none"
        raise ConfigError(
            f"objective {objective.cfg.name} wants optical flow of {wanted[0]}x{wanted[1]} px, "
            f"{shards} holds {found}. Preprocess with optical_flow.height_px={wanted[0]} "
            f"optical_flow.width_px={wanted[1]}, or set the objective's size to what is stored."
        )


def check_masks(shard_sets: tuple[str, ...], objective: Objective, seed: int) -> None:
    """Raises ConfigError if no training clip keeps a mask, and the objective needs masks."""
    if objective.mask is None:
        return
    listed, fraction = ", ".join(shard_sets), objective.mask.fraction
    masked = [uri for uri in shard_sets if open_shard_set(uri).num_masked_clips.get("train")]
    if not masked:
        raise ConfigError(
            f"objective.mask weighs the loss by masks of the agent, but no training clip of "
            f"{listed} has one. Preprocess with masks={{}}, or set objective.mask=null."
        )
    # A hash decides clip by clip, so a small share of few clips may be none at all.
    if fraction < 1 and not any(count_masks(uri, fraction, seed) for uri in masked):
        raise ConfigError(
            f"objective.mask.fraction={fraction:g} keeps no mask of the training clips of "
            f"{listed}. Raise it."
        )


def check_same_frames(shards: str, obs: ObsSpec, first: str) -> None:
    """Raises ConfigError if frames differ from ``obs``, those of the set ``first``."""
    found = obs_spec(shards, obs.frame_stack)
    if found != obs:
        raise ConfigError(
            f"{shards} holds frames of {found.height_px}x{found.width_px} px at {found.fps:g} per "
            f"second, {first} {obs.height_px}x{obs.width_px} at {obs.fps:g}. Preprocess both alike."
        )
