"""Sums, reversals and S-PCFC of codes whose values are known."""

import pytest
import torch

from lafp.evaluate.latents.pair_algebra import measure_pair_algebra


def triples(seed: int = 0):
    """60 steady motions in 4 dimensions, of 6 episodes: a, b and c lie on a line, equally far."""
    generator = torch.Generator().manual_seed(seed)
    for batch in range(3):
        start = torch.randn(20, 4, generator=generator)
        step = torch.randn(20, 4, generator=generator)
        episode = torch.arange(20) // 10 + 2 * batch
        yield (start, start + step, start + 2 * step), episode


def code(kind: str):
    """Returns a map from two observations to a latent."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(4, 8, generator=generator)
    return {
        "displacement": lambda a, b: (b - a) @ mix,
        "displacement with a constant": lambda a, b: (b - a) @ mix + 5,
        "appearance": lambda a, b: b @ mix,
        "direction only": lambda a, b: torch.nn.functional.normalize(b - a, dim=1),
        "alike both ways": lambda a, b: (b - a).abs() @ mix,
        "noise": lambda a, b: torch.randn(len(a), 8, generator=generator),
    }[kind]


def test_a_displacement_adds_up_turns_round_and_tells_the_motion():
    found = measure_pair_algebra(code("displacement"), triples())
    assert found.additivity_error.mean == pytest.approx(0, abs=1e-9)
    assert found.reversal_error.mean == pytest.approx(0, abs=1e-9)
    assert found.s_pcfc.mean == pytest.approx(-1)
    assert found.additivity_error.num_values == 60 and found.s_pcfc.num_values == 6


def test_a_constant_that_all_latents_share_costs_nothing():
    found = measure_pair_algebra(code("displacement with a constant"), triples())
    assert found.additivity_error.mean == pytest.approx(0, abs=1e-9)
    assert found.reversal_error.mean == pytest.approx(0, abs=1e-9)
    assert found.s_pcfc.mean > 0  # the constant outweighs the motion
    assert found.s_pcfc_centered.mean < -0.9


def test_an_appearance_of_the_second_frame_is_found_out():
    found = measure_pair_algebra(code("appearance"), triples())
    # z(a, c) - z(a, b) - z(b, c) = -f(b): smaller than f(c), which lies farther from the start.
    assert 0.2 < found.additivity_error.mean < 1
    # -f(b) against f(a): worse than the mean, which has an error of 1.
    assert found.reversal_error.low > 1
    assert found.s_pcfc.mean == pytest.approx(1) and found.s_pcfc.low == pytest.approx(1)
    assert found.s_pcfc_centered.mean == pytest.approx(1)


def test_a_direction_turns_round_but_does_not_add_up():
    found = measure_pair_algebra(code("direction only"), triples())
    assert found.reversal_error.mean == pytest.approx(0, abs=1e-9)
    # z(a, c) equals z(a, b) and z(b, c), so their sum is off by z itself.
    assert found.additivity_error.mean == pytest.approx(1)


def test_a_code_that_is_alike_both_ways_is_four_variances_off_when_turned_round():
    found = measure_pair_algebra(code("alike both ways"), triples())
    assert found.reversal_error.mean == pytest.approx(4)
    assert found.s_pcfc.mean == pytest.approx(1)


def test_noise_is_off_by_the_variances_of_all_terms():
    def many():
        for seed in range(40):
            yield from triples(seed)

    found = measure_pair_algebra(code("noise"), many())
    assert found.additivity_error.mean == pytest.approx(3, abs=0.15)
    assert found.reversal_error.mean == pytest.approx(2, abs=0.15)
    assert found.s_pcfc.low < 0 < found.s_pcfc.high


def test_no_triples_give_no_numbers():
    assert measure_pair_algebra(code("noise"), []) is None
