import pytest
import torch

from lafp.config import config_from_dict
from lafp.flow_matching import TIME_DISTRIBUTIONS

CPU = torch.device("cpu")


def draw(name, **settings):
    torch.manual_seed(0)
    distribution = TIME_DISTRIBUTIONS.get(name)
    times = distribution(config_from_dict(distribution.Config, settings)).sample(20_000, CPU)
    assert times.shape == (20_000,) and times.dtype == torch.float32
    assert times.min() >= 0 and times.max() <= 1
    return times


def test_uniform_times_have_the_moments_of_the_unit_interval():
    times = draw("uniform")
    assert times.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert times.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_logit_normal_times_are_normal_after_the_logit():
    logits = torch.logit(draw("logit_normal", mean=-0.8, std=0.5))
    assert logits.mean().item() == pytest.approx(-0.8, abs=0.02)
    assert logits.std().item() == pytest.approx(0.5, abs=0.01)


def test_beta_times_have_the_mean_of_the_beta_distribution():
    assert draw("beta", alpha=1.0, beta=1.5).mean().item() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("logit_normal", {"std": 0.0}), ("beta", {"alpha": -1.0}), ("beta", {"beta": 0.0})],
)
def test_impossible_parameters_are_refused(name, settings):
    with pytest.raises(ValueError, match="must be positive"):
        config_from_dict(TIME_DISTRIBUTIONS.get(name).Config, settings)
