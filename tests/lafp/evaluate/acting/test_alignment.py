import math

import pytest
import torch

from lafp.evaluate.acting.alignment import alignment, decoding_errors, energy_distance
from lafp.types import ActionSpec

SPEC = ActionSpec(dim=1, low=(0.0,), high=(10.0,))


def normal(num, dim=1, shift=0.0, scale=1.0, seed=0):
    noise = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))
    return shift + scale * noise


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_have_no_distance(value):
    """It was 0, the best one, because `max(0, nan)` is 0."""
    bad = normal(5, 2)
    bad[3, 1] = value
    assert not math.isfinite(energy_distance(bad, normal(5, 2)))
    assert not math.isfinite(energy_distance(normal(5, 2), bad))
    assert not math.isfinite(alignment(normal(5, 2), normal(5, 2), bad)["alignment_to_deployed"])


def expected_absolute_normal(mean, std):
    """E|X| of X ~ N(mean, std^2)."""
    density = math.exp(-((mean / std) ** 2) / 2) * std * math.sqrt(2 / math.pi)
    return density + mean * math.erf(mean / (std * math.sqrt(2)))


def test_a_sample_has_no_distance_from_itself_in_any_order():
    x = normal(200, dim=5)
    assert energy_distance(x, x) == 0
    assert energy_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-12)


def test_point_masses_are_twice_their_distance_apart():
    x, y = torch.zeros(3, 2), torch.tensor([[3.0, 4.0]])
    assert energy_distance(x, y) == pytest.approx(10)


def test_two_coins_have_the_closed_form_distance():
    """P(1) = p and q: D = 2 (p + q - 2 p q) - 2 p (1 - p) - 2 q (1 - q) = 2 (p - q)^2."""
    x = torch.tensor([[0.0]] * 3 + [[1.0]])
    y = torch.tensor([[0.0]] * 2 + [[1.0]] * 2)
    assert energy_distance(x, y) == pytest.approx(2 * 0.25**2)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (2.0, 1.0), (0.0, 3.0)])
def test_two_gaussians_have_the_closed_form_distance(shift, scale):
    between = expected_absolute_normal(shift, math.sqrt(1 + scale**2))
    within = expected_absolute_normal(0, math.sqrt(2)) * (1 + scale)
    measured = energy_distance(normal(3000), normal(3000, shift=shift, scale=scale, seed=1))
    assert measured == pytest.approx(2 * between - within, abs=0.03)


def test_it_grows_with_a_shift_and_is_near_zero_without():
    distances = [
        energy_distance(normal(500, 8), normal(500, 8, shift, seed=1)) for shift in (0, 0.3, 1)
    ]
    assert distances[0] < 0.03 < distances[1] < distances[2]


@pytest.mark.parametrize("shape", [(0, 2), (3, 1), (2,)])
def test_samples_that_do_not_compare_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected samples \[N, Z\] and \[M, Z\]"):
        energy_distance(torch.zeros(3, 2), torch.zeros(shape))


def test_alignment_is_the_distance_from_either_whatever_the_units():
    idm, deployed = normal(300, 3), normal(300, 3, shift=1.0, seed=1)
    on_idm = alignment(idm, idm, deployed)
    assert on_idm["alignment_to_idm"] == 0
    on_deployed = alignment(deployed, idm, deployed)
    assert on_deployed["alignment_to_deployed"] == 0
    assert on_deployed["alignment_to_idm"] == pytest.approx(on_idm["alignment_to_deployed"])
    units = torch.tensor([0.01, 1.0, 500.0])
    scaled = alignment(idm * units + 7, idm * units + 7, deployed * units + 7)
    assert scaled["alignment_to_deployed"] == pytest.approx(
        on_idm["alignment_to_deployed"], rel=1e-3
    )


def test_errors_are_in_normalized_units_on_each_kind_of_latent():
    true_action = torch.tensor([[0.0], [10.0]])
    errors = decoding_errors(
        lambda z: z, torch.tensor([[-1.0], [1.0]]), torch.tensor([[-1.0], [0.0]]), true_action, SPEC
    )
    assert errors == {"action_mse_on_idm": 0.0, "action_mse_on_deployed": 0.5}


def test_discrete_actions_are_counted():
    logits = torch.eye(3)
    spec = ActionSpec(dim=3, is_discrete=True)
    errors = decoding_errors(lambda z: z, logits, logits.flip(0), torch.arange(3), spec)
    assert errors["action_accuracy_on_idm"] == 1
    assert errors["action_accuracy_on_deployed"] == pytest.approx(1 / 3)
