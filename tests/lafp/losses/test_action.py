"""The errors of predicted actions against values that are known by hand."""

from dataclasses import replace

import pytest
import torch

from lafp.losses.action import action_errors
from lafp.types import ActionSpec


def test_action_errors_are_zero_for_the_truth_and_r2_zero_for_the_mean():
    spec = ActionSpec(dim=2, low=(-1.0, 0.0), high=(1.0, 100.0))
    true = torch.rand(50, 2) * torch.tensor([2.0, 100.0]) - torch.tensor([1.0, 0.0])
    assert action_errors(true, true, spec) == {"action_mse": 0.0, "action_r2": 1.0}
    mean = true.mean(0).expand(50, 2)
    assert action_errors(mean, true, spec)["action_r2"] == pytest.approx(0, abs=1e-5)
    buttons = replace(spec, dim=4, is_discrete=True)
    choices = torch.tensor([0, 1, 2, 3])
    assert action_errors(choices, torch.tensor([0, 1, 0, 0]), buttons) == {"action_accuracy": 0.5}
