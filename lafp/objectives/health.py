"""Finds signs in a LAM's metrics that it learns nothing, and describes them to the user."""

from collections.abc import Mapping

from lafp.objectives.base import COLLAPSED_SPREAD

DEAD_PERPLEXITY = 1.5
"""A codebook with a lower perplexity carries nearly no information. The perplexity is 1 if all
latents take one code."""

COLLAPSED_TARGET = 0.1
"""A target embedding has collapsed if it spreads less than this share of the pixels' spread. LAOM's
map keeps 1.1 at the start and during training; a 256-wide ReLU vector starts at 0.12."""
MANY_DEAD = 0.25
"""Share of dead units from which on an embedding is worth a warning. A 256-wide ReLU vector began
with 16-30 % dead units and ended with half of them dead."""
MIN_JUDGED_EPISODES = 5
"""Held-out episodes from which on z is judged by its controls. Intervals come from resampling
these episodes: a single one gives an interval without width, and few give a too narrow one."""
DOMINATING = 3.0
"""If supervision costs this many times the rest of the loss, labels train nearly alone."""
NEGLIGIBLE = 0.02
"""If supervision costs less than this share of the rest of the loss, labels hardly train the
model. It cost 0.007 on Meta-World before moving videos, where labels did not help."""
UNLEARNED = 0.3
"""A supervision may also cost little because the labels are learned. Then less than this share of
its first error is left: 0.00 to 0.05 on Procgen, and 0.54 in the run above."""

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
COLLAPSED = (
    "The FDM's target embedding has collapsed: it hardly differs between observations, so a small "
    "loss means nothing."
)
NOT_ABOVE_THE_MEAN = (
    "The FDM predicts the target embedding no better than its mean does, so z tells it nothing. "
    "Train longer, or raise latent_action_dim."
)
_OF_TARGETS = ("spread", "dead_share", "explained")
_USE_A_MAP = (
    "Give the objective an encoder that ends in a feature map (strided_resnet), a slower target "
    "(target_ema_decay closer to 1), or a lower optim.lr."
)


def not_above_embedding(latent_r2: float, embedding_r2: float) -> str:
    """Describes a probe of z that is not clearly better than its control."""
    better = "no better" if latent_r2 <= embedding_r2 else "not clearly better"
    return (
        f"The probe reads the true action {better} from z than from the observation alone (R² "
        f"{latent_r2:.2f} against {embedding_r2:.2f}): what z knows about actions may be what the "
        "state gives away. More data, action supervision (`supervision.weight`), or fewer "
        "distractors help."
    )


def signs_of_collapse(metrics: Mapping[str, float]) -> dict[str, str]:
    """Finds the signs of collapse in the metrics of one evaluation.

    Args:
        metrics: One record of ``metrics.jsonl``. A record without an evaluation has no signs.

    Returns:
        Text for the user by the name of the sign: ``constant``, ``dead_codebook``, ``target``,
        ``probe``.
    """
    signs = {}
    if target := target_sign(*(metrics.get(f"val/target_{name}") for name in _OF_TARGETS)):
        signs["target"] = target
    if metrics.get("val/latent/spread", 1.0) < COLLAPSED_SPREAD:
        signs["constant"] = CONSTANT
    if metrics.get("val/codebook/perplexity", DEAD_PERPLEXITY) < DEAD_PERPLEXITY:
        signs["dead_codebook"] = DEAD_CODEBOOK
    names = ("probe/r2", "probe/r2_low", "probe/r2_obs_embedding")
    r2, low, control = (metrics.get(name) for name in names)  # metrics leave out undefined values
    is_judged = metrics.get("probe/num_episodes", MIN_JUDGED_EPISODES) >= MIN_JUDGED_EPISODES
    if not is_judged or r2 is None or low is None or control is None:
        return signs
    # The gain compares the same episodes, so it is sharper than two intervals side by side.
    gain_low = metrics.get("probe/gain_over_obs_embedding_low", low - control)
    if gain_low <= 0:
        signs["probe"] = not_above_embedding(r2, control)
    return signs


def target_sign(
    spread: float | None, dead_share: float | None, explained: float | None
) -> str | None:
    """Describes a target embedding that holds little, or that the FDM does not predict.

    Returns None for a healthy one, or if there is none.

    Args:
        spread: Metric ``target_spread`` of LAOM; None if it was not measured.
        dead_share: Metric ``target_dead_share``, likewise.
        explained: Metric ``target_explained``, likewise: below 0 the targets' mean is nearer.
    """
    if spread is not None and spread < COLLAPSED_TARGET:
        return f"{COLLAPSED} {_USE_A_MAP}"
    if dead_share is not None and dead_share > MANY_DEAD:
        return (
            f"{dead_share:.0%} of the units of the FDM's target embedding are dead: they have the "
            f"same value for every observation. {_USE_A_MAP}"
        )
    if explained is not None and explained <= 0:
        return NOT_ABOVE_THE_MEAN
    return None


def supervision_sign(share: float, remaining_error_share: float | None) -> str | None:
    """Describes a supervision that outweighs the rest of the loss, or hardly counts; else None.

    Args:
        share: Share of the supervision in the whole loss, in [0, 1].
        remaining_error_share: The last error of the supervision, as a share of the first. None if
            it is not known: then nothing is said of a supervision that costs little.
    """
    ratio = share / max(1 - share, 1e-9)
    if ratio >= DOMINATING:
        return (
            f"The supervision costs {ratio:.3g} times what the rest of the loss does, so the "
            "labels train the model nearly alone and the videos add little. In LAOM it costs about "
            "a fifth: lower supervision.weight."
        )
    remaining = remaining_error_share or 0.0
    if ratio < NEGLIGIBLE and remaining > UNLEARNED:
        return (
            f"The supervision costs only {ratio:.2g} times what the rest of the loss does, and "
            f"{remaining:.0%} of its first error is left, so the labels hardly train the model. In "
            "LAOM it costs about a fifth: raise supervision.weight."
        )
    return None
