from itertools import permutations

import pytest
import torch

from lafp.flow_matching.coupling import conditional_ot_coupling


def batch(num, seed=0, dim=2):
    generator = torch.Generator().manual_seed(seed)
    x_0, x_1, condition = (torch.randn(num, dim, generator=generator) for _ in range(3))
    return x_0, x_1 + 2, condition


def cost(order, x_0, x_1, condition, weight):
    distance = torch.cdist(condition, condition).square()
    scale = distance.sum() / (len(x_0) * (len(x_0) - 1))
    of_x = (x_0[order] - x_1).square().mean(1)
    return (of_x + weight * distance[order, torch.arange(len(x_0))] / scale).sum()


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
def test_noise_is_permuted_and_nothing_else(weight):
    x_0, x_1, condition = batch(64)
    order = conditional_ot_coupling(x_0, x_1, condition, weight)
    assert sorted(order.tolist()) == list(range(64))


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_permutation_costs_less(weight, seed):
    points = batch(6, seed)
    order = conditional_ot_coupling(*points, weight)
    least = min(cost(torch.tensor(p), *points, weight) for p in permutations(range(6)))
    assert cost(order, *points, weight).item() == pytest.approx(least.item(), rel=1e-5)


def test_a_heavy_condition_leaves_noise_where_it_was_drawn():
    order = conditional_ot_coupling(*batch(64), 1e6)
    assert torch.equal(order, torch.arange(64))


def two_conditions(num):
    """Two far conditions of many near observations; data to the left of one, right of the other."""
    x_0, _, jitter = batch(num)
    side = torch.arange(num) % 2 * 2.0 - 1
    return x_0, torch.stack([3 * side, torch.zeros(num)], 1), side[:, None] + 1e-3 * jitter, side


def test_the_noise_of_a_condition_stays_standard_normal_only_if_the_condition_is_weighed():
    x_0, x_1, condition, side = two_conditions(400)
    offsets = {}
    for weight in (0.0, 100.0):
        order = conditional_ot_coupling(x_0, x_1, condition, weight)
        offsets[weight] = (x_0[order, 0] * side).mean().item()
    assert offsets[0.0] > 0.5, "plain minibatch OT starts each condition on its data's side"
    assert abs(offsets[100.0]) < 0.1
    # Every condition keeps all of its own noise, in another order.
    order = conditional_ot_coupling(x_0, x_1, condition, 100.0)
    assert torch.equal(side[order], side)


def test_near_observations_get_straighter_paths():
    num = 200
    x_0, _, jitter = batch(num)
    x_1 = torch.stack([torch.randint(0, 2, (num,)) * 6.0 - 3, torch.zeros(num)], 1)
    order = conditional_ot_coupling(x_0, x_1, 1 + 1e-3 * jitter, 0.01)
    coupled, independent = ((x - x_1).square().sum(1).mean() for x in (x_0[order], x_0))
    assert coupled < 0.8 * independent


def test_one_element_and_equal_conditions_are_no_trouble():
    x_0, x_1, condition = batch(1)
    assert conditional_ot_coupling(x_0, x_1, condition, 1.0).tolist() == [0]
    x_0, x_1, condition = batch(8)
    order = conditional_ot_coupling(x_0, x_1, torch.ones_like(condition), 1.0)
    assert torch.equal(order, conditional_ot_coupling(x_0, x_1, condition, 0.0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["data", "condition"])
def test_a_batch_that_is_not_finite_keeps_its_order(which, value):
    noise, data, condition = (torch.randn(4, 2) for _ in range(3))
    {"data": data, "condition": condition}[which][1, 0] = value
    assert conditional_ot_coupling(noise, data, condition, 1.0).tolist() == [0, 1, 2, 3]
