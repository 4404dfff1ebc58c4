"""Finds signs in a LAM's metrics that it learns nothing, and describes them to the user."""

from collections.abc import Mapping

from lafp.objectives.base import COLLAPSED_SPREAD

DEAD_PERPLEXITY = 1.5
"""A codebook with a lower perplexity carries nearly no information."""

CONSTANT = (
    "The latent actions are constant: the LAM gives every frame pair the same z, so policies "
    "trained on it have nothing to learn. If its loss still falls, give it more steps. Else set "
    "objective.idm_input=difference and objective.target=residual, which fit the model to how "
    "little moves, or try a lower optim.lr, optim.warmup_steps, or less bottleneck noise."
)
DEAD_CODEBOOK = (
    "The codebook is dead: nearly every latent takes the same code. Try a lower learning rate, "
    "fewer codes, a smaller revive_after_steps or another bottleneck."
)


def not_above_embedding(latent_r2: float, embedding_r2: float) -> str:
    """Describes a probe of z that is no better than its control."""
    return (
        "The probe reads the true action no better from z than from the observation alone (R² "
        f"{latent_r2:.2f} against {embedding_r2:.2f}): what z knows about actions may be what the "
        "state gives away. More data, action supervision (`supervision.weight`), or fewer "
        "distractors help."
    )


def signs_of_collapse(metrics: Mapping[str, float]) -> dict[str, str]:
    """Finds the signs of collapse in the metrics of one evaluation.

    Args:
        metrics: One record of ``metrics.jsonl``. A record without an evaluation has no signs.

    Returns:
        Text for the user by the name of the sign: ``constant``, ``dead_codebook``, ``probe``.
    """
    signs = {}
    if metrics.get("val/latent/spread", 1.0) < COLLAPSED_SPREAD:
        signs["constant"] = CONSTANT
    if metrics.get("val/codebook/perplexity", DEAD_PERPLEXITY) < DEAD_PERPLEXITY:
        signs["dead_codebook"] = DEAD_CODEBOOK
    names = ("probe/r2", "probe/r2_low", "probe/r2_obs_embedding")
    r2, low, control = (metrics.get(name) for name in names)  # absent where undefined
    if r2 is not None and low is not None and control is not None and low <= control:
        signs["probe"] = not_above_embedding(r2, control)
    return signs
