import pytest
import torch
from torch import nn

from lafp.train.metrics.finite_guard import FiniteGuard, NonFiniteLossError
from lafp.types import LossOutput

FINE, BAD = torch.tensor(1.0), torch.tensor(float("nan"))
CLIP_ID = "0123456789abcdef0123456789abcdef"
CLIP_KEY = int(CLIP_ID[:16], 16) >> 1


def guard(max_skipped_steps: int | None = None) -> FiniteGuard:
    return FiniteGuard(nn.BatchNorm1d(1), torch.device("cpu"), max_skipped_steps)


def end_step(guard: FiniteGuard, step: int, loss: float, key: int, norm: torch.Tensor) -> bool:
    outs = [LossOutput(loss=torch.tensor(loss)), LossOutput(loss=torch.tensor(1.0))]
    return guard.end_step(step, outs, [torch.tensor([key])] * 2, norm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_first_step_and_clips(bad):
    watched = guard()
    for step, loss, key in ((4, 1.0, 11), (5, bad, CLIP_KEY), (6, float("nan"), 13)):
        assert end_step(watched, step, loss, key, FINE)
    with pytest.raises(NonFiniteLossError, match=f"loss of step 5 .* with: {CLIP_ID[:15]}[.]"):
        watched.read()


def test_gradients_that_are_not_finite_are_seen_before_the_next_loss_is():
    watched = guard()
    for step, norm, key in ((4, FINE, 11), (5, BAD, CLIP_KEY), (6, BAD, 13)):
        assert end_step(watched, step, 1.0, key, norm)
    with pytest.raises(NonFiniteLossError, match=f"gradient of step 5 .* with: {CLIP_ID[:15]}[.]"):
        watched.read()


def test_skipped_steps_are_named_once_and_change_no_buffer():
    module = nn.BatchNorm1d(1)
    watched = FiniteGuard(module, torch.device("cpu"), max_skipped_steps=2)
    means = []
    for step, loss, key in ((0, 1.0, 1), (1, float("nan"), CLIP_KEY), (2, 3.0, 2)):
        watched.begin_step()
        module(torch.full((2, 1), 10.0))
        assert end_step(watched, step, loss, key, torch.tensor(loss)) == (step != 1)
        means.append(float(module.running_mean))
    assert means[0] == means[1] < means[2]
    assert watched.read() == [{"step": 1, "clip_ids_begin_with": [CLIP_ID[:15]]}]
    assert watched.read() == []


def test_too_many_skipped_steps_in_a_row_are_an_error_at_once():
    watched = guard(max_skipped_steps=2)
    for step, norm in enumerate((BAD, BAD, FINE, BAD, BAD)):
        end_step(watched, step, 1.0, CLIP_KEY, norm)
        watched.read()  # reports in between change nothing
    with pytest.raises(NonFiniteLossError, match=f"3 steps in a row.* step 5 .*{CLIP_ID[:15]}"):
        end_step(watched, 5, 1.0, CLIP_KEY, BAD)
