"""Inference-time interpolation: where a flow starts that shall keep near a given point (LAFP)."""

import torch
from torch import Tensor

from lafp.flow_matching.path import point_on_path


def anchored_point(x_0: Tensor, x_1: Tensor, anchor_time: float | Tensor) -> Tensor:
    """The solver's start between noise and a demonstrated point (LAFP, arXiv:2606.10517).

        x_tau = (1 - tau) x_0 + tau x_1

    Solved from tau to 1, it ends on the flow's own distribution and, the more surely the larger
    tau is, in the mode of ``x_1``. tau = 0 is plain sampling, tau = 1 returns ``x_1``. The paper
    leaves open how tau is drawn and how many evaluations follow: ``solver.StepsTaken`` has the
    choices, and our default is tau ~ U(0, 1) for each sample on the grid of deployment.

    Args:
        x_0: Noise, float [B, ...].
        x_1: Demonstrated points (z of the IDM), same shape.
        anchor_time: tau in [0, 1], one for all or one per element, float [B].

    Returns:
        x_0's shape.
    """
    t_B = torch.as_tensor(anchor_time, dtype=x_0.dtype, device=x_0.device).expand(len(x_0))
    return point_on_path(x_0, x_1, t_B)
