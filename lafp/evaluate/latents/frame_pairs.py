"""Samples frame pairs of shard sets with their latent actions, for the latent views.

Clips are read one at a time and only thumbnails are kept, whatever the size of the shard set.
"""

# Shape suffixes in this file: N frame pairs, Z latent action, H height, W width.

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.randomness import derive_seed
from lafp.data.shards.clip_tables import videos_of_clips
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import Split
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set
from lafp.data.windows import pixels_to_float, windows_at
from lafp.evaluate import images
from lafp.lam import Lam
from lafp.runs.wording import counted
from lafp.types import ClipBatch, Window

MIN_HELD_OUT_CLIPS = 16
MAX_CLIPS, MAX_PAIRS, MAX_PREDICTED = 240, 2400, 240
BATCH_PAIRS = 64
NUM_MOTION_CLIPS = 10
TILE_PX = 96


@dataclass
class FramePairs:
    """Sampled frame pairs. Lists grow clip by clip; pictures are uint8 [H, W, 3]."""

    split: Split
    num_clips: int
    """Clips that were drawn, without damaged ones."""
    step_s: float | None
    num_damaged_clips: int = 0
    """Clips that were drawn and left out, because storage has lost or changed them."""
    latent: list[Tensor] = field(default_factory=list)
    """Float [Z] each, on the CPU."""
    null_distance: list[float] = field(default_factory=list)
    """Distance of z from IDM(o_t, o_t)."""
    motion: list[float] = field(default_factory=list)
    """Mean |difference| in [0, 1]."""
    video: list[str] = field(default_factory=list)
    obs: list[np.ndarray] = field(default_factory=list)
    next_obs: list[np.ndarray] = field(default_factory=list)
    stacks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Index of some pairs -> o_t and o_{t+1} as the LAM sees them, uint8 [3 F, H, W]."""
    motion_maps: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """For the first clips: middle frame, and the same under a heat map of mean |difference|."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One pair at the size that the FDM predicts, uint8 [H, W, 3], and three squared errors."""

    index: int
    obs: np.ndarray
    truth: np.ndarray
    guess: np.ndarray
    errors: tuple[float, float, float]
    """Errors of the prediction, of the prediction from another pair's latent, and of o_t."""


def sample_pairs(lam: Lam, sources: Mapping[str, float], seed: int) -> FramePairs:
    """Draws up to 2,400 pairs from up to 240 random clips and labels them.

    Clips are held-out ones where each shard set has at least 16, else training clips.

    Args:
        lam: The model that labels them.
        sources: URI of a shard set -> its share of the clips, as weights.
        seed: Seed of the draws.

    Raises:
        ConfigError: Frames of another size than the LAM's, or no clip long enough for a pair.
    """
    uris = tuple(sources)
    for uri in uris:
        _check_size(lam, ClipReader(uri), uri)
    reader = ClipReader(uris)
    counts = [open_shard_set(uri).num_clips.get("val", 0) for uri in uris]
    split: Split = "val" if min(counts) >= MIN_HELD_OUT_CLIPS else "train"
    refs = mixed_clips(sources, split, derive_seed(seed, "latent_views"))
    videos = {
        clip_id: video
        for uri in uris
        for clip_id, video in videos_of_clips(
            uri, [ref.location.clip_id for ref in refs if ref.shard_set == uri]
        ).items()
    }
    fps = reader.spec.fps
    pairs = FramePairs(split=split, num_clips=len(refs), step_s=1 / fps if fps else None)
    for ref in refs:
        try:
            clip = _read(reader, ref)
        except DamagedClipError:
            pairs.num_clips -= 1
            pairs.num_damaged_clips += 1
            continue
        times = _pair_times(clip, lam.obs.frame_stack, -(-MAX_PAIRS // len(refs)), seed)
        if len(times):
            _add_pairs(pairs, lam, clip.to(lam.device), times, videos[ref.location.clip_id])
        if len(pairs.motion_maps) < NUM_MOTION_CLIPS:
            pairs.motion_maps.append(_motion_map(clip))
    if not pairs.latent:
        found_in = " or ".join(uris)
        damaged = f" ({counted(pairs.num_damaged_clips, 'damaged clip')})"
        raise ConfigError(
            f"No {split} clip in {found_in} is sound and long enough for a frame pair"
            f"{damaged if pairs.num_damaged_clips else ''}."
        )
    return pairs


def mixed_clips(sources: Mapping[str, float], split: Split, seed: int) -> list[ClipRef]:
    """Draws up to 240 different random clips: of every set its share, or all that it has."""
    orders = [ClipOrder(shard_set=uri, split=split, seed=seed) for uri in sources]
    weights = np.array(list(sources.values()))
    shares = np.maximum(1, np.round(MAX_CLIPS * weights / weights.sum())).astype(int)
    drawn = [
        list(islice(order.visits(), min(order.num_clips, int(share))))
        for order, share in zip(orders, shares, strict=True)
    ]
    # In turn, so that whatever looks at the first few sees every set.
    return [ref for in_turn in zip_longest(*drawn) for ref in in_turn if ref is not None]


@torch.no_grad()
def predict_pairs(pairs: FramePairs, lam: Lam) -> list[Prediction]:
    """Lets the FDM predict the next frames of the kept pairs; none if it predicts no pixels."""
    predict = getattr(lam.objective, "predict_next_frame", None)
    if predict is None:
        return []
    indices, predictions = sorted(pairs.stacks), []
    for first in range(0, len(indices), BATCH_PAIRS):
        batch = indices[first : first + BATCH_PAIRS]
        # Half the pairs away: most likely another video.
        wrong = [indices[(first + i + len(indices) // 2) % len(indices)] for i in range(len(batch))]
        obs, next_obs = (
            pixels_to_float(torch.stack([pairs.stacks[i][side] for i in batch]).to(lam.device))
            for side in (0, 1)
        )
        right_NZ, wrong_NZ = (
            torch.stack([pairs.latent[i] for i in chosen]).to(lam.device)
            for chosen in (batch, wrong)
        )
        guess = predict(obs, right_NZ)
        frame, truth = (F.adaptive_avg_pool2d(x[:, -3:], guess.shape[-2:]) for x in (obs, next_obs))
        errors = torch.stack(
            [
                (image - truth).square().mean(dim=(1, 2, 3))
                for image in (guess, predict(obs, wrong_NZ), frame)
            ],
            dim=1,
        ).tolist()
        shown = zip(*(_last_frame(image) for image in (frame, truth, guess)), strict=True)
        predictions += [
            Prediction(index=i, obs=tiles[0], truth=tiles[1], guess=tiles[2], errors=tuple(error))
            for i, tiles, error in zip(batch, shown, errors, strict=True)
        ]
    return predictions


def _check_size(lam: Lam, reader: ClipReader, uri: str) -> None:
    have = (reader.spec.height_px, reader.spec.width_px)
    want = (lam.obs.height_px, lam.obs.width_px)
    if have != want:
        raise ConfigError(
            f"The LAM sees frames of {want[0]}x{want[1]} px, {uri} holds {have[0]}x{have[1]}. "
            "Preprocess with the LAM's frame size."
        )


def _read(reader: ClipReader, ref: ClipRef) -> ClipBatch:
    arrays = reader.read(ref)
    fields = ("frames", "num_frames", "clip_key", "epoch")
    return ClipBatch(**{name: torch.as_tensor(arrays[name])[None] for name in fields})


def _pair_times(clip: ClipBatch, frame_stack: int, count: int, seed: int) -> np.ndarray:
    """Draws distinct times t of pairs (t, t+1), in rising order."""
    first, last = frame_stack - 1, int(clip.num_frames[0]) - 2
    if last < first:
        return np.array([], np.int64)
    rng = np.random.default_rng(derive_seed(seed, "pairs", int(clip.clip_key[0])))
    span = last - first + 1
    return np.sort(first + rng.permutation(span)[: min(count, span)])


@torch.no_grad()
def _add_pairs(pairs: FramePairs, lam: Lam, clip: ClipBatch, times: np.ndarray, video: str) -> None:
    for start in range(0, len(times), BATCH_PAIRS):
        t_N = torch.as_tensor(times[start : start + BATCH_PAIRS], device=clip.frames.device)
        zeros_N = torch.zeros_like(t_N)
        window = windows_at(clip, zeros_N, t_N, zeros_N + 1, lam.obs.frame_stack)
        latent_NZ = lam.infer_latent_action(window.obs, window.next_obs).float()
        null_NZ = lam.infer_latent_action(window.obs, window.obs).float()
        _keep_stacks(pairs, window)
        obs, next_obs = _last_frame(window.obs), _last_frame(window.next_obs)
        difference = np.abs(next_obs.astype(np.float32) - obs).mean(axis=(1, 2, 3)) / 255
        pairs.latent.extend(latent_NZ.cpu())
        pairs.null_distance.extend((latent_NZ - null_NZ).norm(dim=1).tolist())
        pairs.motion.extend(difference.tolist())
        pairs.video.extend([video] * len(t_N))
        pairs.obs.extend(images.thumbnail(frame, TILE_PX) for frame in obs)
        pairs.next_obs.extend(images.thumbnail(frame, TILE_PX) for frame in next_obs)


def _keep_stacks(pairs: FramePairs, window: Window) -> None:
    """Keeps the frame stacks of some pairs of every clip, for the FDM."""
    share = -(-MAX_PREDICTED // pairs.num_clips)
    for i in range(0, len(window), max(1, len(window) // share)):
        if len(pairs.stacks) < MAX_PREDICTED:
            obs, next_obs = _to_uint8(window.obs[i]).cpu(), _to_uint8(window.next_obs[i]).cpu()
            pairs.stacks[len(pairs.latent) + i] = obs, next_obs


def _last_frame(obs: Tensor) -> np.ndarray:
    """Takes each stack's newest frame: float [N, 3 F, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return _to_uint8(obs[:, -3:]).permute(0, 2, 3, 1).cpu().numpy()


def _to_uint8(pixels: Tensor) -> Tensor:
    """Inverts ``pixels_to_float``."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _motion_map(clip: ClipBatch) -> tuple[np.ndarray, np.ndarray]:
    frames = clip.frames[0, : int(clip.num_frames[0])].cpu().numpy()
    middle = frames[len(frames) // 2]
    heat = np.zeros(middle.shape[:2], np.float32)
    for before, after in pairwise(frames):
        heat += np.abs(images.change(before, after))
    top = float(np.quantile(heat, 0.995))
    painted = images.overlay_heat(middle, heat / max(top, 1e-6))
    return images.thumbnail(middle, TILE_PX), images.thumbnail(painted, TILE_PX)
