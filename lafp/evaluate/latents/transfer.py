"""Latent actions of one clip, applied to a frame of another one through the forward model.

If z is an action, the other scene moves as the clip did. If z describes the next frame, the other
scene turns into the clip's.
"""

# Shape suffixes in this file: N transitions, Z latent action.

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.data.labels import labeled_episodes
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.reader import ClipReader
from lafp.data.windows import stack_frames
from lafp.evaluate import images
from lafp.evaluate.latents.pair_algebra import error_over_variance
from lafp.evaluate.probes.lam_probe import LabeledTransitions
from lafp.evaluate.rows.statistics import Interval
from lafp.lam import Lam

NUM_STRIPS, NUM_STEPS, GAP_PX = 4, 6, 14
TILE_PX = 72
"""Two clips of seven frames side by side are then as wide as a page."""
MAX_PAIRS = 1024


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How well z is found again in the frames that it led to."""

    own: Interval
    """Squared error of IDM(o, FDM(o, z)) as a prediction of z, divided by the variance of z, where
    z was inferred from o and its next frame. 0 means that the predicted frame shows all of z."""
    other: Interval
    """Like ``own``, but o is a frame of another clip. 1 means that nothing of z is found again."""


def can_predict(lam: Lam) -> bool:
    """Tells whether the LAM's forward model predicts pixels."""
    return hasattr(lam.objective, "predict_next_frame")


@torch.no_grad()
def measure_transfer(lam: Lam, transitions: LabeledTransitions) -> Transfer:
    """Measures a LAM whose forward model predicts pixels, on held-out transitions."""
    latent, own, other, episode = (list[Tensor]() for _ in range(4))
    of_another_clip = _frames_of_others(lam, transitions)
    for window, episode_N in transitions.windows(lam.obs.frame_stack, lam.device):
        latent_NZ = lam.infer_latent_action(window.obs, window.next_obs)
        elsewhere = torch.stack([of_another_clip[episode] for episode in episode_N.tolist()])
        latent.append(latent_NZ)
        own.append(_again(lam, window.obs, latent_NZ))
        other.append(_again(lam, elsewhere, latent_NZ))
        episode.append(episode_N)
    latent_NZ, episode_N = torch.cat(latent).cpu(), torch.cat(episode)
    return Transfer(
        own=error_over_variance(torch.cat(own).cpu(), latent_NZ, episode_N),
        other=error_over_variance(torch.cat(other).cpu(), latent_NZ, episode_N),
    )


def _frames_of_others(lam: Lam, transitions: LabeledTransitions) -> dict[int, Tensor]:
    """Returns for each episode an observation of another one, or its own if it is the only one."""
    found: dict[int, Tensor] = {}
    for window, episode_N in transitions.windows(lam.obs.frame_stack, lam.device):
        for row, episode in enumerate(episode_N.tolist()):
            if episode not in found:
                found[episode] = window.obs[row].clone()  # not the whole batch
    episodes = sorted(found)
    return {e: found[other] for e, other in zip(episodes, episodes[1:] + episodes[:1], strict=True)}


@torch.no_grad()
def filmstrips(lam: Lam, shards: str) -> np.ndarray | None:
    """Draws clips, their frames as predicted from z, and other clips' frames moved by the same z.

    Returns:
        uint8 [H, W, 3], three rows per clip and two clips side by side; None if fewer than two
        held-out clips are long enough.
    """
    stack = lam.obs.frame_stack
    clips = [clip for clip in _clips(shards) if clip.shape[1] >= stack + 1]
    pictures: list[np.ndarray] = []
    for index, clip in enumerate(clips[:NUM_STRIPS] if len(clips) > 1 else []):
        num = min(NUM_STEPS, clip.shape[1] - stack)
        first = stack - 1 + (clip.shape[1] - stack - num) // 2
        seen = [_at(clip, first + step, lam) for step in range(num + 1)]
        latents = [lam.infer_latent_action(before, after) for before, after in pairwise(seen)]
        other = clips[(index + 1) % len(clips)]
        start = _at(other, stack - 1 + (other.shape[1] - stack) // 2, lam)
        strips = [seen, _rolled_out(lam, seen[0], latents), _rolled_out(lam, start, latents)]
        pictures.append(images.grid([[_tile(obs) for obs in strip] for strip in strips]))
    if not pictures:
        return None
    width = min(picture.shape[1] for picture in pictures)
    pictures = [picture[:, :width] for picture in pictures]
    if len(pictures) % 2:
        pictures.append(np.full_like(pictures[0], 255))
    rows = [_spaced(pair, axis=1) for pair in zip(pictures[::2], pictures[1::2], strict=True)]
    return _spaced(rows, axis=0)


def _spaced(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Joins pictures with a white gap between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP_PX
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([p for picture in pictures for p in (picture, gap)][:-1], axis=axis)


def transfer_rows(found: Transfer) -> list[tuple[str, Interval]]:
    """Names the measurements as result tables do."""
    return [("transfer_error_own", found.own), ("transfer_error", found.other)]


def _again(lam: Lam, obs: Tensor, latent_NZ: Tensor) -> Tensor:
    return lam.infer_latent_action(obs, _next(lam, obs, latent_NZ))


def _next(lam: Lam, obs: Tensor, latent_NZ: Tensor) -> Tensor:
    """Returns the observation after the one that the forward model predicts from."""
    objective: Any = lam.objective
    frame = objective.predict_next_frame(obs, latent_NZ)
    if frame.shape[-2:] != obs.shape[-2:]:
        # A model that predicts at half size cannot show more, so the rest of the frame stays.
        coarse = F.adaptive_avg_pool2d(obs[:, -3:], frame.shape[-2:])
        change = F.interpolate(frame - coarse, obs.shape[-2:], mode="bilinear")
        frame = (obs[:, -3:] + change).clamp(-1, 1)
    return torch.cat([obs[:, 3:], frame], dim=1)


def _rolled_out(lam: Lam, obs: Tensor, latents: list[Tensor]) -> list[Tensor]:
    found = [obs]
    for latent_NZ in latents:
        found.append(_next(lam, found[-1], latent_NZ))
    return found


def _clips(shards: str) -> list[Tensor]:
    """Reads a few held-out clips of different episodes, uint8 [1, T, H, W, 3] each."""
    episode_of, reader = labeled_episodes(shards, "val"), ClipReader(shards)
    order = ClipOrder(shard_set=shards, split="val", seed=0, only_clips=frozenset(episode_of))
    refs = {
        episode_of[ref.location.clip_id]: ref for ref in islice(order.visits(), order.num_clips)
    }
    clips: list[Tensor] = []
    for ref in refs.values():
        if len(clips) > NUM_STRIPS:
            break
        try:
            arrays = reader.read(ref)
        except DamagedClipError:
            continue
        clips.append(torch.from_numpy(arrays["frames"][: int(arrays["num_frames"])])[None])
    return clips


def _at(clip: Tensor, t: int, lam: Lam) -> Tensor:
    obs = stack_frames(clip, torch.tensor([0]), torch.tensor([t]), lam.obs.frame_stack)
    return obs.to(lam.device)


def _tile(obs: Tensor) -> np.ndarray:
    pixels = ((obs[0, -3:].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return images.thumbnail(pixels.permute(1, 2, 0).cpu().numpy(), TILE_PX)
