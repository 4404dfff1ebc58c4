import pytest
import torch

from lafp.config import ConfigError, config_from_dict
from lafp.models.latent_projection import Pca, PcaConfig
from tests.process_group import group_of_two, run_two


def pca(dim, latent_action_dim):
    return Pca(PcaConfig(dim=dim), latent_action_dim)


def low_rank(num, rank, latent_action_dim, seed=0):
    """Latents in a subspace of ``rank`` dimensions, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, latent_action_dim, generator=generator)
    offset = 10 * torch.randn(latent_action_dim, generator=generator)
    return torch.randn(num, rank, generator=generator) @ basis + offset


def test_latents_in_a_subspace_of_its_size_come_back_exactly():
    latents = low_rank(400, 6, 200)
    projection = pca(6, 200)
    projection.fit(latents[:300])
    assert projection.project(latents).shape == (400, 6)
    restored = projection.unproject(projection.project(latents))
    torch.testing.assert_close(restored, latents, rtol=1e-4, atol=1e-3)
    assert projection.explained_variance.item() == pytest.approx(1, abs=1e-5)


def test_components_beyond_the_latents_rank_are_switched_off():
    latents = low_rank(400, 6, 200)
    projection = pca(20, 200)
    projection.fit(latents)
    projected = projection.project(latents)
    assert (projected[:, :6].std(0) > 0.1).all()
    assert not projected[:, 6:].any()
    torch.testing.assert_close(projection.unproject(projected), latents, rtol=1e-4, atol=1e-3)


def test_components_are_those_of_the_exact_eigendecomposition():
    scale = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    latents = torch.randn(2000, 6, generator=torch.Generator().manual_seed(1)) * scale @ rotation
    projection = pca(3, 6)
    projection.fit(latents)
    values, vectors = torch.linalg.eigh(latents.T.cov())
    expected = vectors[:, -3:] @ vectors[:, -3:].T
    torch.testing.assert_close(
        projection.components.T @ projection.components, expected, rtol=1e-3, atol=1e-3
    )
    share = values[-3:].sum() / values.sum()
    assert projection.explained_variance.item() == pytest.approx(share.item(), rel=1e-3)


def test_what_it_drops_is_what_it_does_not_explain():
    latents = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    projection = pca(8, 20)
    projection.fit(latents)
    residual = latents - projection.unproject(projection.project(latents))
    dropped = residual.square().sum() / (latents - latents.mean(0)).square().sum()
    assert 1 - projection.explained_variance.item() == pytest.approx(dropped.item(), rel=1e-3)


def test_autocast_and_casts_leave_it_exact():
    latents = low_rank(300, 4, 50)
    projection = pca(4, 50)
    projection.fit(latents)
    expected = projection.project(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projection.project(latents), expected)
        assert projection.unproject(expected).dtype == torch.float32
    assert torch.equal(projection.bfloat16().project(latents), expected)


def test_what_was_never_fitted_gives_no_numbers():
    assert pca(2, 4).project(torch.randn(3, 4)).isnan().all()


def fit_on_rank(rank: int, rendezvous: str, latents: torch.Tensor, out: str) -> None:
    with group_of_two(rank, rendezvous):
        projection = pca(3, latents.shape[1])
        projection.fit(latents[rank * 100 : rank * 100 + 100])
        torch.save(projection.state_dict(), f"{out}/{rank}.pt")


def test_all_ranks_hold_the_components_of_all_latents(tmp_path):
    latents = low_rank(200, 10, 30)
    arguments = (str(tmp_path / "rendezvous"), latents, str(tmp_path))
    run_two(fit_on_rank, *arguments)
    alone = pca(3, 30)
    alone.fit(latents)
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 64, "num_fit_latents": 64}, "num_fit_latents must be more than dim 64, got 64"),
        ({}, "dim"),
    ],
)
def test_impossible_settings_are_refused(raw, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(PcaConfig, raw)
