import pytest
import torch

from lafp.evaluate.probes.linear import (
    ProbeData,
    accuracy,
    action_targets,
    fit_probe,
    gain,
    probe_metrics,
    r2_over_fit_size,
    ridge_of,
    score_probe,
)
from lafp.evaluate.probes.mlp_probe import fit_mlp_probe
from lafp.types import ActionSpec


def linear_data(num: int, dim: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, ProbeData]:
    """y = x W + 3 + noise, W the same for every seed."""
    weight = torch.randn(dim, 2, generator=torch.Generator().manual_seed(99)) / dim**0.5
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num, dim, generator=generator)
    targets = features @ weight + 3 + noise * torch.randn(num, 2, generator=generator)
    return features, ProbeData(targets=targets, episode=torch.arange(num) // 10)


@pytest.mark.parametrize(("num", "dim"), [(50, 8), (12, 50), (20, 20)])
def test_ridge_is_the_closed_form_for_more_and_for_fewer_features_than_rows(num, dim):
    features, data = linear_data(num, dim, noise=0.5)
    x, y = features.double(), data.targets.double()
    x, y = x - x.mean(0), y - y.mean(0)
    penalty = 0.01
    gram = x.T @ x
    expected = torch.linalg.solve(gram + penalty * gram.trace() * torch.eye(dim), x.T @ y)
    fitted = ridge_of(features, data).solve(penalty)
    torch.testing.assert_close(fitted.weight, expected)


def test_the_intercept_is_not_penalised():
    """However strong the penalty, the prediction falls back to the mean and not to zero."""
    features, data = linear_data(100, 4, noise=0.1)
    moved = ProbeData(targets=data.targets + 1000, episode=data.episode)
    predicted = ridge_of(features + 100, moved).solve(1e9)(features + 100)
    expected = (data.targets.double() + 1000).mean(0).expand_as(predicted)
    torch.testing.assert_close(predicted, expected)


def test_shifting_and_scaling_the_features_changes_no_prediction():
    features, data = linear_data(100, 6, noise=0.5)
    probe, scaled = fit_probe(features, data), fit_probe(1000 * features + 7, data)
    torch.testing.assert_close(probe(features), scaled(1000 * features + 7), atol=1e-4, rtol=1e-4)


def test_a_linear_relation_is_found_and_scored_near_its_true_r2():
    fit, held_out = linear_data(2000, 8, noise=0.5), linear_data(2000, 8, noise=0.5, seed=1)
    score = score_probe(fit_probe(*fit), *held_out)
    assert score.mse == pytest.approx(0.25, rel=0.1)
    assert score.r2 == pytest.approx(1 - score.mse / score.action_variance)
    assert score.r2_low < score.r2 < score.r2_high
    assert (score.num_transitions, score.num_episodes) == (2000, 200)


def test_features_without_information_score_zero_not_below():
    """A wide feature and few rows: without a chosen penalty it would overfit far below zero."""
    torch.manual_seed(0)
    _, fit = linear_data(100, 2, noise=0.1)
    _, held_out = linear_data(500, 2, noise=0.1, seed=1)
    score = score_probe(fit_probe(torch.randn(100, 300), fit), torch.randn(500, 300), held_out)
    assert -0.1 < score.r2 < 0.05


def test_a_constant_feature_scores_zero_and_is_finite():
    _, fit = linear_data(50, 2, noise=0.1)
    _, held_out = linear_data(50, 2, noise=0.1, seed=1)
    score = score_probe(fit_probe(torch.ones(50, 4), fit), torch.ones(50, 4), held_out)
    assert score.r2 == pytest.approx(0, abs=0.1)


def test_the_interval_resamples_episodes_not_transitions():
    """Rows that repeat within an episode say nothing new: the interval must not shrink."""
    fit = linear_data(500, 4, noise=0.5)
    features, data = linear_data(300, 4, noise=0.5, seed=1)
    probe = fit_probe(*fit)
    once = score_probe(probe, features, data)
    repeated = ProbeData(targets=data.targets.repeat(20, 1), episode=data.episode.repeat(20))
    often = score_probe(probe, features.repeat(20, 1), repeated)
    assert often.r2_high - often.r2_low == pytest.approx(once.r2_high - once.r2_low, rel=1e-6)


def test_one_episode_cannot_choose_a_penalty():
    features, data = linear_data(10, 4, noise=0.1)
    with pytest.raises(ValueError, match="two episodes"):
        fit_probe(features, data)


def test_discrete_actions_are_probed_as_one_hot_rows():
    spec = ActionSpec(dim=3, is_discrete=True)
    choice = torch.arange(300) % 3
    data = ProbeData(targets=action_targets(choice, spec), episode=torch.arange(300) // 10)
    features = torch.eye(3)[choice] @ torch.randn(3, 5)
    probe = fit_probe(features, data)
    assert accuracy(probe(features), data) == 1
    assert score_probe(probe, features, data).r2 > 0.99


def test_continuous_actions_are_normalised():
    spec = ActionSpec(dim=2, low=(0.0, -4.0), high=(2.0, 4.0))
    targets = action_targets(torch.tensor([[0.0, -4.0], [2.0, 2.0]]), spec)
    torch.testing.assert_close(targets, torch.tensor([[-1.0, -1.0], [1.0, 0.5]]))


def test_metrics_carry_the_controls_beside_the_probe():
    fit, held_out = linear_data(200, 4, noise=0.5), linear_data(100, 4, noise=0.5, seed=1)
    score = score_probe(fit_probe(*fit), *held_out)
    metrics = probe_metrics({"latent": score, "obs_embedding": score, "random_lam": score})
    assert set(metrics) == {
        "probe/r2",
        "probe/r2_low",
        "probe/r2_high",
        "probe/mse",
        "probe/action_variance",
        "probe/n",
        "probe/num_episodes",
        *(
            f"probe/{kind}_{control}{end}"
            for control in ("obs_embedding", "random_lam")
            for kind, end in (
                ("r2", ""),
                ("gain_over", ""),
                ("gain_over", "_low"),
                ("gain_over", "_high"),
            )
        ),
    }
    assert metrics["probe/n"] == 100


def test_actions_that_are_all_alike_leave_no_r2_instead_of_an_enormous_one():
    features, data = linear_data(100, 4, noise=0.1)
    probe = fit_probe(features, data)
    constant = ProbeData(targets=torch.full_like(data.targets, 0.1), episode=data.episode)
    metrics = probe_metrics({"latent": score_probe(probe, features, constant)})
    assert not {"probe/r2", "probe/r2_low", "probe/r2_high"} & metrics.keys()
    assert metrics["probe/mse"] > 0 and metrics["probe/num_episodes"] == 10


def test_resamples_of_constant_episodes_leave_the_interval_defined():
    """One episode of three moves, so many resamples hold no variance at all."""
    features, data = linear_data(30, 4, noise=0.1)
    targets = data.targets.clone()
    targets[10:] = targets[:10].mean()
    score = score_probe(
        fit_probe(features, data), features, ProbeData(targets=targets, episode=data.episode)
    )
    assert -1e3 < score.r2_low <= score.r2_high <= 1


def test_a_standardized_ridge_finds_what_lies_in_dimensions_of_little_variance():
    """R2 is 0.8: the signal has variance 2, one per feature, and the noise 0.5."""
    splits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        x = torch.randn(2000, 40)
        targets = x[:, :2].sum(1, keepdim=True) + 0.5**0.5 * torch.randn(2000, 1)
        x[:, 2:] *= 3e4  # the background, as wide as it is useless
        splits.append((x, ProbeData(targets=targets, episode=torch.arange(2000) // 20)))
    fit, held_out = splits
    equations = ridge_of(*fit)
    score = score_probe(equations.fit(equations.std()), *held_out)
    assert score.r2 == pytest.approx(0.8, abs=0.03)
    assert score_probe(fit_probe(*fit), *held_out).r2 < 0.7


def test_an_mlp_finds_a_known_r2_where_a_linear_map_finds_none():
    """y = |x_0| + noise, so that var(y) = (1 - 2 / pi) + 0.1 and R2 is at most 0.784."""
    splits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        x = torch.randn(3000, 6)
        targets = x[:, :1].abs() + 0.1**0.5 * torch.randn(3000, 1)
        splits.append((x, ProbeData(targets=targets, episode=torch.arange(3000) // 30)))
    fit, held_out = splits
    assert score_probe(fit_probe(*fit), *held_out).r2 < 0.05
    assert score_probe(fit_mlp_probe(*fit), *held_out).r2 == pytest.approx(0.784, abs=0.05)


def test_r2_rises_with_the_number_of_transitions_to_its_known_value():
    fit, held_out = linear_data(2048, 64, noise=0.5), linear_data(2048, 64, noise=0.5, seed=1)
    curve = r2_over_fit_size(*fit, *held_out)
    assert list(curve) == [32, 128, 512]
    curve[2048] = score_probe(fit_probe(*fit), *held_out).r2
    assert list(curve.values()) == sorted(curve.values())
    known = 1 - 0.25 / float(held_out[1].targets.var(0).mean())
    assert curve[2048] == pytest.approx(known, abs=0.03) and curve[32] < known - 0.15


def episodes_with_known_r2(seed: int, num_episodes: int = 24) -> tuple[torch.Tensor, ProbeData]:
    """Features are y without its noise of a fifth of the variance, so a perfect probe has 0.8."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(num_episodes * 20, 1, generator=generator)
    noise = 0.5 * torch.randn(num_episodes * 20, 1, generator=generator)
    episode = torch.arange(num_episodes).repeat_interleave(20)
    return signal, ProbeData(targets=signal + noise, episode=episode)


def test_intervals_of_r2_and_of_paired_gains_hold_the_truth_in_nine_of_ten_studies():
    hits_r2 = hits_gain = 0
    for study in range(500):
        features, data = episodes_with_known_r2(study)
        full = score_probe(lambda x: x.double(), features, data, seed=study)
        half = score_probe(lambda x: x.double() / 2, features, data, seed=study)  # R2 is 0.6
        over = gain(full, half)
        hits_r2 += full.r2_low <= 0.8 <= full.r2_high
        hits_gain += over.low <= 0.2 <= over.high
    assert hits_r2 / 500 >= 0.9 and hits_gain / 500 >= 0.9


def test_a_paired_gain_is_sharper_than_two_intervals_side_by_side():
    """Episodes differ in how well any probe does on them, which cancels out in the difference."""
    torch.manual_seed(0)
    features, data = episodes_with_known_r2(0)
    noise = 4 * torch.rand(24)[data.episode, None] * (data.targets - features)
    data = ProbeData(targets=features + noise, episode=data.episode)
    ours = score_probe(lambda x: x.double(), features, data)
    theirs = score_probe(lambda x: 0.5 * x.double(), features, data)
    assert gain(ours, theirs).low > 0 and ours.r2_low < theirs.r2_high
