import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lafp.losses.forward_dynamics import (
    explained_change,
    frame_loss,
    prediction_errors,
    residual_loss,
)


def test_residual_loss_of_no_change_is_1_and_of_the_truth_0():
    residual = torch.randn(4, 3, 8, 8)
    residual /= residual.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
    no_change = residual_loss(torch.zeros_like(residual), residual)
    torch.testing.assert_close(no_change, torch.tensor(1.0))
    assert residual_loss(residual, residual) == 0


def test_a_cut_weighs_no_more_than_a_large_motion_and_a_still_batch_less():
    prediction, residual = torch.randn(2, 3, 4, 4), 5 * torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(
        residual_loss(prediction, residual), residual_loss(50 * prediction, 50 * residual)
    )
    small = 0.1 * torch.ones(2, 3, 4, 4)
    assert residual_loss(torch.zeros_like(small), small) == pytest.approx(0.01)
    assert residual_loss(torch.zeros_like(small), torch.zeros_like(small)) == 0


@given(scale=st.floats(1e-6, 1.0), share=st.floats(-1.0, 1.0))
def test_the_explained_share_is_the_same_however_little_moves(scale, share):
    """No floor: a prediction with ``1 - share`` of the copy's error explains ``share``."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.zeros(4, 3, 6, 6, dtype=torch.float64)
    next_obs = scale * torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    predicted = next_obs * (1 - (1 - share) ** 0.5)
    errors = prediction_errors(predicted.float(), obs.float(), next_obs.float())
    metrics = {f"val/{name}": float(error) for name, error in errors.items()}
    found = explained_change(metrics, "val/")
    assert found == {"val/fdm_explained": pytest.approx(share, abs=1e-4)}


def test_the_explained_share_weighs_pairs_by_their_change():
    """A still pair that is predicted badly counts by its error, not by its own quotient."""
    still, moving = {"fdm_error": 0.1, "copy_error": 1e-9}, {"fdm_error": 0.1, "copy_error": 1.0}
    means = {name: (still[name] + moving[name]) / 2 for name in still}
    assert explained_change(means)["fdm_explained"] == pytest.approx(0.8)


def test_where_nothing_moves_or_nothing_was_measured_there_is_no_share():
    assert explained_change({"fdm_error": 0.1, "copy_error": 0.0}) == {}
    assert explained_change({"loss": 1.0}) == {}


def test_taking_the_frame_itself_explains_nothing():
    frame, next_frame = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    errors = {n: float(e) for n, e in prediction_errors(frame, frame, next_frame).items()}
    assert explained_change(errors) == {"fdm_explained": 0}
    assert errors["copy_error"] == pytest.approx(float(frame_loss(frame, next_frame)))


def test_shapes_that_differ_are_refused_not_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        residual_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
