import math

import pytest
import torch
from torch import nn

from lafp.models.patch_transformer import Blocks, TransformerConfig
from lafp.train.metrics import efficiency
from lafp.train.metrics.efficiency import Efficiency, peak_flops

CPU = torch.device("cpu")


def counted(module: nn.Module, inputs: torch.Tensor, num_rounds: int = 1) -> int:
    meter = Efficiency(CPU, "fp32", num_rounds)
    with meter.counting_once():
        module(inputs).sum().backward()
    return meter.flops_per_step


def test_forward_and_backward_of_a_linear_layer_cost_six_flops_per_weight_and_row():
    first_layer = nn.Linear(20, 30, bias=False)
    # Nobody asks for the gradient of the input: two products instead of three.
    assert counted(first_layer, torch.randn(7, 20)) == 4 * 7 * 20 * 30
    with_input_gradient = torch.randn(7, 20, requires_grad=True)
    assert counted(first_layer, with_input_gradient) == 6 * 7 * 20 * 30
    assert counted(first_layer, with_input_gradient, num_rounds=3) == 18 * 7 * 20 * 30


def test_attention_on_a_cpu_is_counted_too():
    """Forward two products of N x N x W per frame, backward five (its scores again)."""
    cfg = TransformerConfig(width=32, depth=1, num_heads=2)
    tokens = torch.randn(2, 1, 64, 32, requires_grad=True)
    num_tokens = 2 * 64
    layers = 6 * num_tokens * 12 * 32 * 32
    attention = 2 * (2 + 5) * 2 * 64 * 64 * 32
    assert counted(Blocks(cfg, is_temporal=False), tokens) == layers + attention


def test_checkpointed_activations_are_computed_and_counted_again():
    flops = []
    for is_checkpointed in (False, True):
        cfg = TransformerConfig(width=32, depth=2, num_heads=2, is_checkpointed=is_checkpointed)
        flops.append(counted(Blocks(cfg, is_temporal=True), torch.randn(2, 2, 9, 32)))
    assert 1.2 < flops[1] / flops[0] < 1.4


def test_mfu_is_the_share_of_the_peak():
    meter = Efficiency(CPU, "fp32", 1)
    with meter.counting_once():
        torch.ones(512, 512) @ torch.ones(512, 512)
    peak = peak_flops(CPU, "fp32")
    assert 1e8 < peak < 1e13
    metrics = meter.metrics(step_s=4 * 512**3 / peak)
    assert metrics["mfu"] == pytest.approx(0.5)
    assert 1e7 < metrics["memory/max_rss_bytes"] < 1e12


def test_more_than_the_peak_is_no_utilization():
    """The peak of a CPU is measured, and too low where it was busy then."""
    meter = Efficiency(CPU, "fp32", 1)
    with meter.counting_once():
        torch.ones(512, 512) @ torch.ones(512, 512)
    for step_s in (0.5 * 2 * 512**3 / peak_flops(CPU, "fp32"), 0.0):
        assert "mfu" not in meter.metrics(step_s)


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA RTX A1000", None),
        ("Some future device", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name, bf16, monkeypatch):
    monkeypatch.setattr(efficiency.torch.cuda, "get_device_name", lambda _: name)
    peak_flops.cache_clear()
    assert peak_flops(torch.device("cuda", 0), "bf16") == bf16
    peak_flops.cache_clear()


def test_without_a_known_peak_there_is_no_mfu(monkeypatch):
    monkeypatch.setattr(efficiency, "peak_flops", lambda *_: None)
    meter = Efficiency(CPU, "fp32", 1)
    with meter.counting_once():
        torch.ones(8, 8) @ torch.ones(8, 8)
    assert "mfu" not in meter.metrics(1.0) and math.isfinite(meter.flops_per_step)
