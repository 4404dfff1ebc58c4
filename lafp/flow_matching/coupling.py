"""Which noise goes with which data: couplings of x_0 and x_1 within a batch."""

# Shape suffixes in this file: B batch, D point, E embedding.

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def conditional_ot_coupling(
    x_0: Tensor, x_1: Tensor, condition: Tensor, condition_weight: float
) -> Tensor:
    """Pairs noise with data by optimal transport, for a flow that is conditional on c.

        min over permutations s of  sum_i  |x_0[s_i] - x_1[i]|^2 / D  +  beta |c[s_i] - c[i]|^2 / C

    with C the mean of |c_i - c_j|^2 over different i and j. Straighter paths need fewer solver
    steps (minibatch OT: Pooladian et al., arXiv:2304.14772; Tong et al., arXiv:2302.00482). But OT
    over x alone gives each condition the noise that lies nearest to *its* data, and a flow started
    from N(0, I) at one condition then misses that condition's distribution. Weighing the
    condition's distance in the cost takes this bias away as beta grows (Chemseddine et al.,
    arXiv:2403.18705; Kerrigan et al., arXiv:2404.04240): noise i is drawn with the condition c_i,
    and moves to data of a condition close to it. Our reading: where they let the flow carry c as
    well, ours takes c of the data, which is the same in the limit.

    In that limit, with no two conditions alike, nothing is left to permute: what can be gained
    comes from conditions that are close to each other. The draws of one observation have one x_1,
    so permuting among them alone would change nothing.

    Args:
        x_0: Noise, float [B, D].
        x_1: Data, same shape.
        condition: c, float [B, E], e.g. the embedding of the observation.
        condition_weight: beta, not negative. 0 is plain, biased minibatch OT.

    Returns:
        s, int64 [B], on x_0's device: ``x_0[s]`` belongs to ``x_1`` and ``condition``. The
        assignment is solved on the host, in about B^3 time.
    """
    cost_BB = torch.cdist(x_0.float(), x_1.float()).square() / x_0.shape[1]
    distance_BB = torch.cdist(condition.float(), condition.float()).square()
    num_others = max(1, len(x_0) * (len(x_0) - 1))
    scale = (distance_BB.sum() / num_others).clamp_min(torch.finfo(torch.float32).tiny)
    cost_BB += condition_weight * distance_BB / scale
    _, noise = linear_sum_assignment(cost_BB.T.cpu().numpy())
    return torch.from_numpy(noise).to(x_0.device)
