"""Inference-time interpolation (LAFP): starts a flow between noise and a given point."""

from torch import Tensor

from lafp.flow_matching.path import point_on_path


def anchored_point(x_0: Tensor, x_1: Tensor, anchor_time: float | Tensor) -> Tensor:
    """Interpolates between noise and a demonstrated point (LAFP, arXiv:2606.10517).

        x_tau = (1 - tau) x_0 + tau x_1

    A solver that starts at x_tau and goes from tau to 1 returns a sample of the flow's own
    distribution. The larger tau is, the more likely the sample is in the mode of ``x_1``. tau = 0
    is plain sampling, and tau = 1 returns ``x_1``. The paper does not say how tau is drawn or how
    many evaluations follow. Our default draws tau ~ U(0, 1) for each sample, and takes the
    remaining steps of deployment's time grid (``solver.StepsTaken``).

    Args:
        x_0: Noise, float [B, ...].
        x_1: Demonstrated points (z of the IDM), same shape.
        anchor_time: tau in [0, 1], one for all or one per element, float [B].

    Returns:
        x_tau, of x_0's shape.
    """
    if not isinstance(anchor_time, Tensor):
        anchor_time = x_0.new_full((), anchor_time)
    return point_on_path(x_0, x_1, anchor_time.to(x_0).expand(len(x_0)))
