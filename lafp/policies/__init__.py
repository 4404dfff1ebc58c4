"""Policies over latent actions, by the name that ``policy.name`` takes in YAML."""

from lafp.config.registry import Registry

POLICIES = Registry(
    "policy",
    {
        "latent_bc": "lafp.policies.latent_bc:LatentBc",
        "latent_flow": "lafp.policies.latent_flow:LatentFlow",
        "latent_mean_flow": "lafp.policies.latent_mean_flow:LatentMeanFlow",
    },
)
