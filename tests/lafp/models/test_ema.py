import copy

import pytest
import torch
from torch import nn

from lafp.models.ema import ema_update_


def test_n_updates_towards_a_fixed_module_follow_the_closed_form():
    online, decay, num_updates = nn.Linear(3, 4), 0.9, 25
    target = nn.Linear(3, 4)
    start = copy.deepcopy(target)
    for _ in range(num_updates):
        ema_update_(target, online, decay)
    left = decay**num_updates
    torch.testing.assert_close(target.weight, left * start.weight + (1 - left) * online.weight)
    torch.testing.assert_close(target.bias, left * start.bias + (1 - left) * online.bias)


def test_buffers_are_copied():
    online, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    online(torch.randn(8, 3) + 5)
    ema_update_(target, online, 0.99)
    torch.testing.assert_close(target.running_mean, online.running_mean)


def test_only_the_slice_of_a_cut_parameter_is_updated():
    """What ZeRO-3 leaves of a parameter on a rank: an empty tensor, and its slice beside it."""
    online, target = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    for module, value in ((online, 1.0), (target, 0.0)):
        module.weight.data = torch.empty(0)
        module.weight.ds_tensor, module.weight.ds_numel = torch.full((2,), value), 4
    ema_update_(target, online, 0.75)
    torch.testing.assert_close(target.weight.ds_tensor, torch.full((2,), 0.25))


def test_a_cut_parameter_whose_slice_is_the_whole_is_updated_once():
    """What ZeRO-3 leaves of a small parameter on the only rank: both are one memory."""
    online, target = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    for module, value in ((online, 1.0), (target, 0.0)):
        module.weight.data.fill_(value)
        module.weight.ds_tensor, module.weight.ds_numel = module.weight.data.view(-1), 4
    ema_update_(target, online, 0.75)
    torch.testing.assert_close(target.weight.data, torch.full((2, 2), 0.25))


def test_a_bf16_target_is_refused():
    online = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="fp32"):
        ema_update_(copy.deepcopy(online).bfloat16(), online, 0.999)
