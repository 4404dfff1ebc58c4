"""Shows what a latent action model has learned, as pictures and numbers, without labels.

``write_latent_views`` takes a finished LAM and shard sets, draws frame pairs (from held-out clips
where there are enough) and writes into a folder::

    latent_views.json     every number: the fields of ``LatentViews``
    predictions.png       two blocks of o_t, o_{t+1}, predicted o_{t+1}, change, predicted change
    neighbours.png        a query pair per row and the nearest pairs from other videos; a pair is
                          o_t and o_{t+1} with what changed in colour
    motion.png            clips (top) and where they move (bottom)
"""

# Shape suffixes in this file: N frame pairs, Z latent action.

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lafp import storage
from lafp.data.randomness import derive_seed
from lafp.evaluate import images
from lafp.evaluate.latents.frame_pairs import (
    TILE_PX,
    FramePairs,
    Prediction,
    predict_pairs,
    sample_pairs,
)
from lafp.lam import Lam, load_lam
from lafp.objectives.base import COLLAPSED_SPREAD, NEAR_NULL
from lafp.storage import strict_json

NUM_PREDICTIONS, NUM_QUERIES, NUM_NEIGHBOURS = 6, 6, 5
_NUMBERS = "latent_views.json"


@dataclass(frozen=True, kw_only=True)
class LatentViews:
    """The numbers of ``latent_views.json``."""

    split: str
    """``val`` where it has at least 16 clips, else ``train``."""
    num_clips: int
    num_damaged_clips: int
    """Drawn clips that could not be read, because storage lost or changed them, so that
    ``num_clips`` leaves them out."""
    num_videos: int
    num_pairs: int
    step_s: float | None
    """Time between the frames of a pair; None when clips keep the rates of their videos."""
    latent_action_dim: int
    norms: list[float]
    """|z| of each pair."""
    motion: list[float]
    """Mean |difference| of each pair, in [0, 1]."""
    spectrum: list[float]
    """Eigenvalues of the covariance of z, largest first."""
    effective_rank: float
    """Participation ratio of the spectrum, (sum l)^2 / sum l^2: 1 .. Z. Defined as in
    ``latent_metrics``."""
    near_null_share: float
    """Share of pairs whose z lies within 0.1 RMS distances of the mean. Defined as in
    ``latent_metrics``."""
    spread: float
    """RMS distance of z from its mean over the RMS norm of z: 0 when all latents are equal."""
    is_collapsed: bool
    """``spread`` below 0.001: every pair gets the same latent action."""
    motion_correlation: float | None = None
    """Spearman's correlation of a pair's mean |difference| with the distance of z from
    IDM(o_t, o_t), which is what "nothing changed" looks like to the model. None if undefined."""
    codebook: dict[str, float] | None = None
    """``usage`` (share of codes that some pair took) and ``perplexity``; None when continuous."""
    prediction_error: float | None = None
    """Mean squared error of the predicted next frame, pixels in [-1, 1]; None without pixels."""
    wrong_latent_error: float | None = None
    """``prediction_error`` with the latent action of another pair: the FDM should need the right
    one."""
    copy_error: float | None = None
    """``prediction_error`` when o_t itself is taken as the prediction."""
    skipped: dict[str, str]
    """Name of a view that could not be made -> the reason."""


def write_latent_views(
    lam_uri: str, sources: Mapping[str, float], out_uri: str, seed: int
) -> LatentViews:
    """Writes the pictures and ``latent_views.json`` into ``out_uri``.

    Args:
        lam_uri: A finished LAM.
        sources: URIs of the shard sets to look at, of the LAM's frame size, and their weights.
        out_uri: Folder to write into, local or S3.
        seed: Decides which clips and pairs are drawn.

    Returns:
        The numbers in ``latent_views.json``.

    Raises:
        ConfigError: No such LAM or shard set, or frames of another size than the LAM's.
    """
    lam = load_lam(lam_uri, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pairs = sample_pairs(lam, sources, seed)
    predictions = predict_pairs(pairs, lam)
    views = view_numbers(pairs, predictions, lam)
    rng = np.random.default_rng(derive_seed(seed, "latent_views", "choice"))
    pictures = {
        "motion.png": images.grid([list(row) for row in zip(*pairs.motion_maps, strict=True)]),
        "predictions.png": _prediction_tiles(pairs, predictions, rng) if predictions else None,
        "neighbours.png": None if "neighbours" in views.skipped else _neighbour_tiles(pairs, rng),
    }
    for name, picture in pictures.items():
        path = storage.join(out_uri, name)
        storage.delete(path)  # of an earlier LAM
        if picture is not None:
            storage.write_bytes(path, images.png(picture))
    strict_json.write(storage.join(out_uri, _NUMBERS), views)
    return views


def has_latent_views(uri: str) -> bool:
    """Returns whether the folder ``uri`` is complete: its numbers are written last."""
    return storage.is_file(storage.join(uri, _NUMBERS))


def read_latent_views(uri: str) -> LatentViews:
    """Reads the numbers that ``write_latent_views`` wrote into the folder ``uri``.

    Raises:
        DamagedError: The file is damaged; the message names it.
        OSError: The file is missing or cannot be read.
    """
    return strict_json.read(LatentViews, storage.join(uri, _NUMBERS))


# ---------------------------------------------------------------------------------------------
# Numbers


def view_numbers(pairs: FramePairs, predictions: list[Prediction], lam: Lam) -> LatentViews:
    """Computes the numbers that stand beside the pictures."""
    latent_NZ = torch.stack(pairs.latent).double()
    centred_NZ = latent_NZ - latent_NZ.mean(0)
    squared_N = centred_NZ.square().sum(1)
    power = float(latent_NZ.square().sum(1).mean())
    spread = (float(squared_N.mean()) / power) ** 0.5 if power > 0 else 0.0
    is_collapsed = spread < COLLAPSED_SPREAD
    # Singular values, N or Z of them: no Z x Z matrix for wide latents.
    spectrum = torch.linalg.svdvals(centred_NZ).square() / len(latent_NZ)
    rank = 0.0 if is_collapsed else float(spectrum.sum().square() / spectrum.square().sum())
    errors = np.mean([p.errors for p in predictions], axis=0).tolist() if predictions else None
    return LatentViews(
        split=pairs.split,
        num_clips=pairs.num_clips,
        num_damaged_clips=pairs.num_damaged_clips,
        num_videos=len(set(pairs.video)),
        num_pairs=len(latent_NZ),
        step_s=pairs.step_s,
        latent_action_dim=latent_NZ.shape[1],
        norms=latent_NZ.norm(dim=1).tolist(),
        motion=pairs.motion,
        spectrum=spectrum.tolist(),
        effective_rank=rank,
        near_null_share=float((squared_N <= NEAR_NULL**2 * squared_N.mean()).double().mean()),
        spread=spread,
        is_collapsed=is_collapsed,
        motion_correlation=_spearman(pairs.motion, pairs.null_distance),
        codebook=codebook_use(lam, torch.stack(pairs.latent)),
        prediction_error=errors[0] if errors else None,
        wrong_latent_error=errors[1] if errors else None,
        copy_error=errors[2] if errors else None,
        skipped=_skipped(pairs, lam, is_collapsed, bool(predictions)),
    )


def _skipped(
    pairs: FramePairs, lam: Lam, is_collapsed: bool, has_predictions: bool
) -> dict[str, str]:
    skipped = {}
    if not has_predictions:
        skipped["predictions"] = (
            f"The objective `{lam.objective.cfg.name}` predicts embeddings, not pixels, so there "
            "is no next frame to show."
        )
    if is_collapsed:
        skipped["neighbours"] = "All latent actions are equal, so there are no nearest ones."
    elif len(set(pairs.video)) < 2:
        skipped["neighbours"] = "Neighbours come from other videos, and only one was sampled."
    return skipped


@torch.no_grad()
def codebook_use(lam: Lam, latent_NZ: Tensor) -> dict[str, float] | None:
    """Returns share of codes in use and perplexity on these latents; None without a codebook."""
    bottleneck = getattr(lam.objective, "bottleneck", None)
    if bottleneck is None:
        return None
    metrics = bottleneck(latent_NZ.to(lam.device)).metrics
    prefix = "codebook/"
    use = {k.removeprefix(prefix): float(v) for k, v in metrics.items() if k.startswith(prefix)}
    return use or None


def _spearman(a: list[float], b: list[float]) -> float | None:
    if min(np.std(a), np.std(b)) < 1e-12:
        return None
    ranks = [_ranks(values) for values in (a, b)]
    centred = [rank - rank.mean() for rank in ranks]
    return float(centred[0] @ centred[1] / np.prod([np.linalg.norm(c) for c in centred]))


def _ranks(values: list[float]) -> np.ndarray:
    """Returns the rank of each value. Equal values share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


# ---------------------------------------------------------------------------------------------
# Pictures


def _prediction_tiles(
    pairs: FramePairs, predictions: list[Prediction], rng: np.random.Generator
) -> np.ndarray:
    of_index = {prediction.index: prediction for prediction in predictions}
    tiles = []
    for i in _moving(pairs, list(of_index), NUM_PREDICTIONS, rng):
        p = of_index[i]
        changes = [images.change(p.obs, after) for after in (p.truth, p.guess)]
        scale = float(np.quantile(np.abs(changes[0]), 0.995))
        painted = [images.paint_change(signed, scale) for signed in changes]
        tiles.append([images.thumbnail(t, TILE_PX) for t in (p.obs, p.truth, p.guess, *painted)])
    if len(tiles) < 2:
        return images.grid(tiles)
    half = len(tiles) // 2
    rows = [left + right for left, right in zip(tiles[:half], tiles[half : 2 * half], strict=True)]
    return images.grid(rows, group=5)


def _neighbour_tiles(pairs: FramePairs, rng: np.random.Generator) -> np.ndarray:
    latent_NZ = torch.stack(pairs.latent)
    rows = []
    for query in _moving(pairs, list(range(len(pairs.video))), NUM_QUERIES, rng):
        distance_N = (latent_NZ - latent_NZ[query]).norm(dim=1).numpy()
        shown = [query, *nearest_of_other_videos(pairs.video, query, distance_N)]
        rows.append([tile for i in shown for tile in _pair_tiles(pairs, i)])
    width = min(len(row) for row in rows)
    return images.grid([row[:width] for row in rows], group=2)


def nearest_of_other_videos(video: list[str], query: int, distance_N: np.ndarray) -> list[int]:
    """Returns the nearest pairs, nearest first. Videos repeat only if there are too few."""
    order = [int(i) for i in np.argsort(distance_N) if video[i] != video[query]]
    best_of_video: dict[str, int] = {}
    for i in order:
        best_of_video.setdefault(video[i], i)
    best = list(best_of_video.values())
    return (best + [i for i in order if i not in set(best)])[:NUM_NEIGHBOURS]


def _moving(
    pairs: FramePairs, indices: list[int], count: int, rng: np.random.Generator
) -> list[int]:
    """Draws pairs from the half with more motion. Videos repeat only if there are too few."""
    motion = np.asarray(pairs.motion)[indices]
    half = [i for i, m in zip(indices, motion, strict=True) if m >= np.median(motion)]
    rng.shuffle(half)
    first_of_video: dict[str, int] = {}
    for i in half:
        first_of_video.setdefault(pairs.video[i], i)
    first = list(first_of_video.values())
    return (first + [i for i in half if i not in set(first)])[:count]


def _pair_tiles(pairs: FramePairs, i: int) -> list[np.ndarray]:
    obs, next_obs = pairs.obs[i], pairs.next_obs[i]
    signed = images.change(obs, next_obs)
    scale = float(np.quantile(np.abs(signed), 0.99))
    return [obs, images.overlay_change(next_obs, signed, max(scale, 0.02))]
