import math

import pytest
import torch
from torch import nn

from lafp.train.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate


def rates(num_steps: int, **kwargs) -> list[float]:
    cfg = OptimConfig(lr=1.0, **kwargs)
    return [learning_rate(cfg, step, num_steps) for step in range(num_steps)]


def test_warm_up_grows_linearly_to_the_peak():
    assert rates(10, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1, 1, 1]


def test_linear_decay_starts_at_the_peak_and_reaches_zero_at_the_end():
    assert rates(6, warmup_steps=2, decay="linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(OptimConfig(lr=1.0, decay="linear"), 6, 6) == 0


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_decay_may_end_above_zero(decay):
    got = rates(4, decay=decay, final_share=0.2)
    assert got[0] == 1.0 and got[2] == pytest.approx(0.6)
    assert learning_rate(OptimConfig(lr=1.0, decay=decay, final_share=0.2), 4, 4) == 0.2


def test_cosine_decay_is_half_a_period():
    got = rates(8, decay="cosine")
    assert got == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


def test_a_run_of_only_warm_up_never_divides_by_zero():
    assert rates(3, warmup_steps=3, decay="linear") == pytest.approx([1 / 3, 2 / 3, 1])


def test_only_matrices_decay_and_frozen_parameters_are_left_out():
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    module[2].requires_grad_(False)
    optimizer = build_optimizer(module, OptimConfig(weight_decay=0.1))
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert [p.shape for p in plain["params"]] == [(2,), (2,), (2,)]


@pytest.mark.parametrize("max_norm", [None, 1.0, 100.0])
def test_clipping_scales_to_the_norm_and_returns_the_one_before(max_norm):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 4.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, max_norm) == 6
    after = torch.cat([p.grad for p in parameters]).norm()
    assert after == pytest.approx(min(6.0, max_norm or 6.0), rel=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0.0."),
        ({"betas": (0.9, 1.0)}, "betas must lie in"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, got -1."),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive or null"),
    ],
)
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**kwargs)
