import pytest
import torch

from lafp.losses.forward_dynamics import explained_change, frame_loss, residual_loss


def test_residual_loss_of_no_change_is_1_and_of_the_truth_0():
    residual = 0.3 * torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(
        residual_loss(torch.zeros_like(residual), residual), torch.tensor(1.0)
    )
    assert residual_loss(residual, residual) == 0


def test_residual_loss_does_not_depend_on_how_strong_the_motion_is():
    prediction, residual = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(
        residual_loss(prediction, residual), residual_loss(0.2 * prediction, 0.2 * residual)
    )


def test_residual_loss_of_a_still_batch_is_finite():
    assert residual_loss(torch.full((1, 3, 2, 2), 0.01), torch.zeros(1, 3, 2, 2)) == pytest.approx(
        1
    )


def test_explained_change_is_0_without_a_model_and_1_for_a_perfect_one():
    frame, next_frame = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    residual = next_frame - frame
    no_model = explained_change(frame_loss(frame, next_frame), residual)
    torch.testing.assert_close(no_model, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert explained_change(torch.tensor(0.0), residual) == 1


def test_shapes_that_differ_are_refused_not_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        residual_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
