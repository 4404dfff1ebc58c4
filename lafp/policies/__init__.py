"""Registers every policy over latent actions under the name that a config selects it by."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.policies.base import Policy

POLICIES: Registry["Policy"] = Registry(
    "policy",
    {
        "latent_bc": "lafp.policies.latent_bc:LatentBc",
        "latent_flow": "lafp.policies.latent_flow:LatentFlow",
        "latent_mean_flow": "lafp.policies.latent_mean_flow:LatentMeanFlow",
    },
)
