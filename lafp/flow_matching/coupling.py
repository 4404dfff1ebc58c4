"""Couplings, which pair noise x_0 with data x_1 within a batch."""

# Shape suffixes in this file: B batch, D point, E embedding.

import numpy as np
import torch
from torch import Tensor


def conditional_ot_coupling(
    x_0: Tensor, x_1: Tensor, condition: Tensor, condition_weight: float
) -> Tensor:
    """Pairs noise with data by optimal transport, for a flow that is conditional on c.

        min over permutations s of  sum_i  |x_0[s_i] - x_1[i]|^2 / D  +  beta |c[s_i] - c[i]|^2 / C

    with C the mean of |c_i - c_j|^2 over different i and j. Straighter paths need fewer solver
    steps (minibatch OT: Pooladian et al., arXiv:2304.14772; Tong et al., arXiv:2302.00482). But OT
    over x alone gives each condition the noise that is nearest to its data, and a flow that starts
    from N(0, I) at one condition then misses that condition's distribution. The second term of the
    cost removes this bias as beta grows (Chemseddine et al., arXiv:2403.18705; Kerrigan et al.,
    arXiv:2404.04240): noise i belongs to the condition c_i, and is paired with data of a similar
    condition. Our deviation: their flow transports c together with x, ours uses the data's c. Both
    agree in the limit of large beta.

    In that limit, if all conditions differ, the permutation is the identity. So the coupling only
    helps if a batch holds similar conditions. It does not permute the draws of one observation
    among each other, because they share one x_1 and nothing would change.

    Args:
        x_0: Noise, float [B, D].
        x_1: Data, same shape.
        condition: c, float [B, E], e.g. the embedding of the observation.
        condition_weight: beta, not negative. 0 is plain, biased minibatch OT.

    Returns:
        The permutation s, int64 [B], on x_0's device: ``x_0[s]`` is paired with ``x_1`` and
        ``condition``. The host solves the assignment, in time of about B^3. If a cost is not
        finite, s is the identity.
    """
    # An agent, which loads this module and never trains, does without scipy.
    from scipy.optimize import linear_sum_assignment

    # Under autocast the embedding is bf16, and many costs would be equal.
    cost_BB = torch.cdist(x_0.float(), x_1.float()).square() / x_0.shape[1]
    distance_BB = torch.cdist(condition.float(), condition.float()).square()
    num_others = max(1, len(x_0) * (len(x_0) - 1))
    # If all conditions are equal, 0 / 0 would be NaN.
    scale = (distance_BB.sum() / num_others).clamp_min(torch.finfo(torch.float32).tiny)
    cost_BB += condition_weight * distance_BB / scale
    # Transposed, because the answer then names the noise of each row of data.
    cost = cost_BB.T.cpu().numpy()
    if not np.isfinite(cost).all():
        # The loss will not be finite either, and training says so with the clips. See
        # ``on_non_finite``.
        return torch.arange(len(x_0), device=x_0.device)
    _, noise = linear_sum_assignment(cost)
    return torch.from_numpy(noise).to(x_0.device)
