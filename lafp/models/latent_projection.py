"""Projects latent actions that are too wide for a small head onto fewer dimensions, and back."""

# Shape suffixes in this file: N latent actions, Z latent action, K projected.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.config.ranges import check_at_least
from lafp.models.exact_buffers import ExactBuffers
from lafp.ranks import world_size
from lafp.seeding import seeded

OVERSAMPLING = 16
POWER_ITERATIONS = 4
NEGLIGIBLE = 1e-5
"""Singular values below this share of the largest are rounding errors of zero in float32."""


class LatentProjection(ExactBuffers, ABC):
    """Maps latent actions linearly onto fewer dimensions, and back."""

    Config: Any
    dim: int
    """K, number of remaining dimensions."""
    explained_variance: Tensor
    """Share of the latent actions' variance that the projection keeps, float32 scalar."""
    num_fit_latents: int
    """Number of latent actions, over all ranks, that ``fit`` needs before training; may be 0."""

    @abstractmethod
    def fit(self, latent_action: Tensor) -> None:
        """Learns the map. All ranks must call it, and all get the same map.

        Args:
            latent_action: This rank's share of training latents, float [N, Z]. N must be the same
                on every rank.
        """

    @abstractmethod
    def project(self, latent_action: Tensor) -> Tensor:
        """Maps [N, Z] in the LAM's units to float32 [N, K]."""

    @abstractmethod
    def unproject(self, projected: Tensor) -> Tensor:
        """Maps [N, K] to float32 [N, Z] in the LAM's units.

        For the output of ``project``, this is the nearest point that the projection can express.
        """


@dataclass(frozen=True, kw_only=True)
class NoProjectionConfig:
    """No projection: the policy predicts every dimension of the latent action."""

    name: str = "none"


class NoProjection(LatentProjection):
    """The identity, for policies without a projection."""

    Config = NoProjectionConfig
    num_fit_latents = 0

    def __init__(self, cfg: NoProjectionConfig, latent_action_dim: int) -> None:
        super().__init__()
        del cfg
        self.dim = latent_action_dim
        self.register_buffer("explained_variance", torch.ones(()), persistent=False)

    def fit(self, latent_action: Tensor) -> None:
        """Does nothing."""

    def project(self, latent_action: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        return latent_action.float()

    def unproject(self, projected: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        return projected.float()


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Projects onto principal components of the latent actions of the first training batches."""

    name: str = "pca"
    dim: int
    """Number of leading components to keep. See docs/results.md for the effect on results."""
    num_fit_latents: int = 4096
    """Number of latent actions that determine the components. They take 8 bytes x this x Z of
    memory."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "dim")
        if self.num_fit_latents <= self.dim:
            raise ValueError(
                f"num_fit_latents must be more than dim {self.dim}, got {self.num_fit_latents}: "
                "so many components are not determined by so few latent actions."
            )


class Pca(LatentProjection):
    """Projects z to V^T (z - mean), with the leading eigenvectors V of the latents' covariance.

    This is our own design for LAOM's Z = 8192. V comes from a randomized SVD of a sample (Halko et
    al., 2011), so that neither memory nor time grows with Z^2. All results are NaN before ``fit``.
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
        # NaN shows if anything is projected before ``fit``.
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
        # The SVD draws random vectors. With a fixed seed, equal latents give equal components.
        with seeded(0, centred_NZ.device):
            _, scale_R, vectors_ZR = torch.svd_lowrank(centred_NZ, rank, niter=POWER_ITERATIONS)
        # Components beyond the rank of the latents hold rounding errors only, which
        # standardization would scale up.
        is_real_K = scale_R[: self.dim] > NEGLIGIBLE * scale_R[0]
        self.components.copy_(vectors_ZR[:, : self.dim].T * is_real_K[:, None])
        total = centred_NZ.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        self.explained_variance.copy_(scale_R[: self.dim].square().sum() / total)
        if world_size() > 1:
            # Different machines may compute different results from equal input.
            for value in self.buffers():
                dist.broadcast(value, src=0)

    def project(self, latent_action: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        # Policies, decoders and measurements share these units, so autocast must not round them to
        # bf16.
        with torch.autocast(latent_action.device.type, enabled=False):
            return (latent_action.float() - self.mean) @ self.components.T

    def unproject(self, projected: Tensor) -> Tensor:
        """See ``LatentProjection``."""
        with torch.autocast(projected.device.type, enabled=False):
            return projected.float() @ self.components + self.mean


def _of_all_ranks(latent_NZ: Tensor) -> Tensor:
    if world_size() == 1:
        return latent_NZ
    parts = [torch.empty_like(latent_NZ) for _ in range(world_size())]
    # torch.distributed refuses tensors that are not contiguous.
    dist.all_gather(parts, latent_NZ.contiguous())
    return torch.cat(parts)
