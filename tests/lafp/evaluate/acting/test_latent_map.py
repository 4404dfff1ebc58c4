"""Latent actions on the plane that the LAM's latents span."""

import pytest
import torch

from lafp.evaluate.acting.latent_map import IDM, Latents, latent_points

NUM = 200


def two_groups(is_discrete=False):
    """Latents that differ in two dimensions by the side, on scales that differ by far."""
    torch.manual_seed(0)
    side_N = torch.arange(NUM) % 2
    latent_NZ = 0.05 * torch.randn(NUM, 4)
    latent_NZ[:, 2:] += 2.0 * side_N[:, None] - 1
    latent_NZ = latent_NZ * torch.tensor([1.0, 1000.0, 0.01, 1.0]) + 5
    action_NA = torch.stack([torch.ones(NUM), 2.0 * side_N - 1], 1)
    return Latents(latent_action=latent_NZ, true_action=side_N if is_discrete else action_NA)


def of(points, source, projection="pca"):
    chosen = [p for p in points if (p.source, p.projection) == (source, projection)]
    return torch.tensor([[p.x, p.y, p.action] for p in chosen])


@pytest.mark.parametrize("is_discrete", [False, True])
def test_ways_lie_apart_and_their_colours_are_the_actions(is_discrete):
    points = latent_points({IDM: two_groups(is_discrete)}, seed=0)
    assert {point.is_discrete for point in points} == {is_discrete}
    x, _, action = of(points, IDM).T
    assert len(x) == NUM and len(action.round(decimals=4).unique()) == 2
    assert torch.corrcoef(torch.stack([x, action]))[0, 1].abs() > 0.98


def test_a_mean_of_two_ways_lies_between_them_on_the_same_axes():
    idm = two_groups()
    mean_NZ = idm.latent_action.mean(0).expand(NUM, 4)
    mean = Latents(latent_action=mean_NZ, true_action=idm.true_action)
    points = latent_points({IDM: idm, "latent_bc": mean, "copy": idm}, seed=0)
    assert torch.equal(of(points, "copy"), of(points, IDM))
    assert of(points, "latent_bc")[:, :2].abs().max() < 1e-3
    assert of(points, IDM)[:, 0].abs().min() > 0.5


def test_a_single_latent_dimension_is_a_line():
    torch.manual_seed(0)
    one = Latents(latent_action=torch.randn(9, 1), true_action=torch.randn(9, 1))
    points = of(latent_points({IDM: one}, seed=0), IDM)
    assert points[:, 0].std() > 0.5 and (points[:, 1] == 0).all()


def test_umap_adds_a_map_of_its_own_where_it_is_installed():
    pytest.importorskip("umap")
    idm = two_groups()
    points = latent_points({IDM: idm, "copy": idm}, seed=0)
    assert {point.projection for point in points} == {"pca", "umap"}
    at_N2 = of(points, "copy", "umap")[:, :2]
    centres = [at_N2[side::2].mean(0) for side in (0, 1)]
    spread = max(float((at_N2[s::2] - c).norm(dim=1).mean()) for s, c in enumerate(centres))
    assert float((centres[0] - centres[1]).norm()) > 2 * spread
