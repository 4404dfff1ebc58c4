"""Measures how far the latents of an action decoder's training are from those of deployment."""

# Shape suffixes in this file: N, M transitions, Z latent action, A true action.

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.types import ActionSpec


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Returns the distance between the distributions of two samples.

        D(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    Szekely & Rizzo, *Energy statistics*, J. Stat. Plan. Inference 143 (2013), in its plain form
    (V-statistic): never negative, 0 for the same points. Two samples of N points from *one*
    distribution still lie about 2 E|X - X'| / N apart.

    Args:
        x: float [N, Z].
        y: float [M, Z].

    Raises:
        ValueError: A sample is empty, or the points have other dimensions.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not (len(x) and len(y)):
        raise ValueError(
            f"Expected samples [N, Z] and [M, Z] with N, M > 0, got {list(x.shape)} and "
            f"{list(y.shape)}."
        )
    # The three means nearly cancel where the samples are alike, so float32 would leave mostly
    # rounding.
    x, y = x.double(), y.double()
    distance = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
    # Rounding alone can bring the distance of like samples a little below 0. NaN stays NaN, which
    # `max` of Python would turn into the best possible distance.
    return float(distance.clamp(min=0))


def alignment(trained_on: Tensor, idm: Tensor, deployed: Tensor) -> dict[str, float]:
    """Measures how far a decoder's training latents are from the IDM's and from the policy's.

    Latents are standardized with the mean and standard deviation of the IDM's, per dimension, so
    that no dimension counts for its units and decoders of one LAM compare. The distances do
    not show whether a latent was paired with the right action; ``decoding_errors`` does.

    Args:
        trained_on: Anchored samples at the decoder's ``anchor_time``, float [N, Z].
        idm: Raw latents of the same transitions, float [N, Z].
        deployed: The policy's own samples from noise at the same observations, float [N, Z].

    Returns:
        ``alignment_to_idm`` and ``alignment_to_deployed``, energy distances.
    """
    trained_on_NZ, idm_NZ, deployed_NZ = map(standardizer(idm), (trained_on, idm, deployed))
    return {
        "alignment_to_idm": energy_distance(trained_on_NZ, idm_NZ),
        "alignment_to_deployed": energy_distance(trained_on_NZ, deployed_NZ),
    }


def standardizer(latent_NZ: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the map that gives each dimension of these latents mean 0 and variance 1, float64.

    A dimension that never changes keeps its unit.
    """
    mean_Z, std_Z = latent_NZ.double().mean(0), latent_NZ.double().std(0, correction=0)
    std_Z = torch.where(std_Z > 0, std_Z, 1.0)
    return lambda latents: (latents.double() - mean_Z) / std_Z


def decoding_errors(
    decode: Callable[[Tensor], Tensor],
    idm: Tensor,
    deployed: Tensor,
    true_action: Tensor,
    spec: ActionSpec,
) -> dict[str, float]:
    """Compares a decoder's actions on raw IDM latents, and on the policy's, with the true ones.

    On IDM latents a decoder that learned the right pairs has little error. On deployed ones every
    decoder has errors where the policy goes another way than the demonstrator, even a valid one.

    Args:
        decode: Latents [N, Z] -> actions in normalized units [N, A], or logits.
        idm: Raw latents, float [N, Z].
        deployed: The policy's own samples, float [N, Z].
        true_action: Demonstrated actions, float [N, A] in the environment's units, or int64 [N].
        spec: Describes an action.

    Returns:
        ``action_mse_on_idm`` and ``action_mse_on_deployed`` in [-1, 1] units; for discrete actions
        ``action_accuracy_on_idm`` and ``action_accuracy_on_deployed``.
    """
    errors = {}
    for name, latents in (("idm", idm), ("deployed", deployed)):
        predicted = decode(latents)
        if spec.is_discrete:
            is_right = predicted.argmax(dim=1) == true_action
            errors[f"action_accuracy_on_{name}"] = float(is_right.float().mean())
        else:
            error = F.mse_loss(predicted, spec.normalize(true_action))
            errors[f"action_mse_on_{name}"] = float(error)
    return errors
