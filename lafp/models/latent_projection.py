"""Latent actions too wide for a small head <-> their leading directions."""

# Shape suffixes in this file: N latent actions, Z latent action, K projected.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.models.exact_buffers import ExactBuffers

OVERSAMPLING = 16
POWER_ITERATIONS = 4
NEGLIGIBLE = 1e-5
"""Of the largest singular value: about what float32 leaves of a zero."""


class LatentProjection(ExactBuffers, ABC):
    """A linear map of latent actions onto fewer dimensions, and its way back."""

    Config: Any
    dim: int
    """K, dimensions that are left."""
    explained_variance: Tensor
    """Share of the latent actions' variance that it keeps, float32 scalar."""
    num_fit_latents: int
    """Latent actions, over all ranks, that ``fit`` wants before training; 0 needs none."""

    @abstractmethod
    def fit(self, latent_action: Tensor) -> None:
        """Learns the map. All ranks call it, and end with the same one.

        Args:
            latent_action: This rank's share of training latents, float [N, Z]; equally many on
                every rank.
        """

    @abstractmethod
    def project(self, latent_action: Tensor) -> Tensor:
        """[N, Z] in the LAM's units -> float32 [N, K]."""

    @abstractmethod
    def restore(self, projected: Tensor) -> Tensor:
        """[N, K] -> float32 [N, Z] in the LAM's units: the nearest point that the map keeps."""


@dataclass(frozen=True, kw_only=True)
class NoProjectionConfig:
    """Every dimension of the latent action is predicted."""

    name: str = "none"


class NoProjection(LatentProjection):
    """The identity."""

    Config = NoProjectionConfig
    num_fit_latents = 0

    def __init__(self, cfg: NoProjectionConfig, latent_action_dim: int) -> None:
        super().__init__()
        del cfg
        self.dim = latent_action_dim
        self.register_buffer("explained_variance", torch.ones(()), persistent=False)

    def fit(self, latent_action: Tensor) -> None:
        """Nothing to learn."""

    def project(self, latent_action: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        return latent_action.float()

    def restore(self, projected: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        return projected.float()


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Principal components of the first training batches' latent actions."""

    name: str = "pca"
    dim: int
    """How many leading components are kept. What that costs: docs/results.md."""
    num_fit_latents: int = 4096
    """Latent actions that the components are computed from; memory holds 8 bytes x this x Z."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}.")
        if self.num_fit_latents <= self.dim:
            raise ValueError(
                f"num_fit_latents must be more than dim {self.dim}, got {self.num_fit_latents}: "
                "so many components are not determined by so few latent actions."
            )


class Pca(LatentProjection):
    """z -> V^T (z - mean), with the leading eigenvectors V of the latents' covariance.

    Our design for LAOM's Z = 8192. V comes from a randomized SVD of a sample (Halko et al., 2011),
    so that neither memory nor time grows with Z^2. Before ``fit`` everything it returns is NaN.
    """

    Config = PcaConfig
    mean: Tensor
    components: Tensor

    def __init__(self, cfg: PcaConfig, latent_action_dim: int) -> None:
        super().__init__()
        if cfg.dim > latent_action_dim:
            raise ValueError(
                f"latent_projection.dim must be at most the latent action's {latent_action_dim} "
                f"dimensions, got {cfg.dim}."
            )
        self.dim, self.num_fit_latents = cfg.dim, cfg.num_fit_latents
        self.register_buffer("mean", torch.full((latent_action_dim,), torch.nan))
        self.register_buffer("components", torch.full((cfg.dim, latent_action_dim), torch.nan))
        self.register_buffer("explained_variance", torch.tensor(torch.nan))

    @torch.no_grad()
    def fit(self, latent_action: Tensor) -> None:
        """See ``LatentProjection``."""
        latent_NZ = _of_all_ranks(latent_action.float())
        self.mean.copy_(latent_NZ.mean(0))
        centred_NZ = latent_NZ - self.mean
        rank = min(self.dim + OVERSAMPLING, *centred_NZ.shape)
        devices = [centred_NZ.device] if centred_NZ.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            _, scale_R, vectors_ZR = torch.svd_lowrank(centred_NZ, rank, niter=POWER_ITERATIONS)
        # Beyond the latents' rank lies rounding alone, which standardization would blow up.
        is_real_K = scale_R[: self.dim] > NEGLIGIBLE * scale_R[0]
        self.components.copy_(vectors_ZR[:, : self.dim].T * is_real_K[:, None])
        total = centred_NZ.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        self.explained_variance.copy_(scale_R[: self.dim].square().sum() / total)
        if dist.is_available() and dist.is_initialized():
            # Equal input is no promise of equal output on unequal machines.
            for value in self.buffers():
                dist.broadcast(value, src=0)

    def project(self, latent_action: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        with torch.autocast(latent_action.device.type, enabled=False):
            return (latent_action.float() - self.mean) @ self.components.T

    def restore(self, projected: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        with torch.autocast(projected.device.type, enabled=False):
            return projected.float() @ self.components + self.mean


def _of_all_ranks(latent_NZ: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return latent_NZ
    parts = [torch.empty_like(latent_NZ) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, latent_NZ.contiguous())
    return torch.cat(parts)
