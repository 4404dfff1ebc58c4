"""Projects latent actions to a plane: those of the LAM, and those that policies predict.

``latent_map.parquet`` holds a row per latent action (``LatentPoint``); the report draws it.
"""

# Shape suffixes in this file: N transitions, Z latent action, A true action.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions

import torch
from torch import Tensor

from lafp.evaluate.acting.alignment import standardizer

IDM = "idm"
"""The source of the latents that the LAM infers from two frames."""
MAX_POINTS = 500
"""Latents per source: a picture shows no more, and each is a mark in the page's file."""


@dataclass(frozen=True, kw_only=True)
class LatentPoint:
    """A row of ``latent_map.parquet``."""

    projection: str
    """``pca``, or ``umap`` where that package is installed."""
    source: str
    """``idm``, or the name of a policy."""
    x: float
    y: float
    action: float
    """The demonstrated action: its choice if discrete, else its first principal component."""
    is_discrete: bool


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latent actions of one source, beside what the demonstrator did."""

    latent_action: Tensor
    """float [N, Z]."""
    true_action: Tensor
    """float [N, A] in [-1, 1], or int64 [N]."""


def latent_points(sources: Mapping[str, Latents], seed: int) -> list[LatentPoint]:
    """Puts latents on the planes that the LAM's latents span, so that all sources compare.

    Args:
        sources: Name -> its latents. ``IDM`` is among them.
        seed: Of UMAP.
    """
    idm = sources[IDM]
    to_plane = {"pca": _pca(idm.latent_action)}
    if any(distributions(name="umap-learn")):
        to_plane["umap"] = _umap(idm.latent_action, seed)
    is_discrete = not idm.true_action.is_floating_point()
    color = (lambda choice_N: choice_N.double()) if is_discrete else _first_component(idm)
    points = []
    for projection, project in to_plane.items():
        for source, latents in sources.items():
            at_N2, action_N = project(latents.latent_action), color(latents.true_action)
            points += [
                LatentPoint(
                    projection=projection,
                    source=source,
                    x=x,
                    y=y,
                    action=action,
                    is_discrete=is_discrete,
                )
                for (x, y), action in zip(at_N2.tolist(), action_N.tolist(), strict=True)
            ]
    return points


def _pca(latent_NZ: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the two leading principal components of standardized latents."""
    standardize = standardizer(latent_NZ)
    axes_2Z = torch.linalg.svd(standardize(latent_NZ), full_matrices=False).Vh[:2]
    if len(axes_2Z) < 2:  # one latent dimension: a line
        axes_2Z = torch.cat([axes_2Z, torch.zeros_like(axes_2Z)])
    return lambda latents: standardize(latents) @ axes_2Z.T


def _umap(latent_NZ: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    from umap import UMAP

    standardize = standardizer(latent_NZ)
    model = UMAP(random_state=seed % (1 << 32)).fit(standardize(latent_NZ).numpy())
    return lambda latents: torch.from_numpy(model.transform(standardize(latents).numpy()))


def _first_component(idm: Latents) -> Callable[[Tensor], Tensor]:
    """Returns the direction in which demonstrated actions differ most."""
    mean_A = idm.true_action.double().mean(0)
    axis_A = torch.linalg.svd(idm.true_action.double() - mean_A, full_matrices=False).Vh[0]
    return lambda action_NA: (action_NA.double() - mean_A) @ axis_A
