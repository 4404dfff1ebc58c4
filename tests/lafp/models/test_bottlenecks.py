import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lafp.models.bottlenecks.base import NoBottleneck, NoBottleneckConfig
from lafp.models.bottlenecks.fsq import Fsq, FsqConfig
from lafp.models.bottlenecks.layernorm_noise import LayerNormNoise, LayerNormNoiseConfig
from lafp.models.bottlenecks.vq import Vq, VqConfig
from lafp.models.codebook_usage import usage_of_choices, usage_of_counts
from tests.process_group import group_of_two, run_two

VQ = VqConfig(num_codebooks=2, num_discrete_latents=3, num_codes=5, revive_after_steps=4)
Z = 12


def naive_quantize(vq: Vq, latent: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Loops over everything; also returns which latents chose each (codebook, code)."""
    quantized = torch.empty_like(latent)
    chosen = {key: [] for key in itertools.product(range(2), range(5))}
    for b in range(len(latent)):
        for n in range(2):
            for i in range(3):
                part = slice((n * 3 + i) * 2, (n * 3 + i + 1) * 2)
                value = latent[b, part]
                k = min(range(5), key=lambda k: float((value - vq.codebook[n, k]).square().sum()))
                quantized[b, part] = vq.codebook[n, k]
                chosen[n, k].append(value)
    return quantized, chosen


def step(vq: Vq, *micro_batches: torch.Tensor) -> None:
    for latent in micro_batches:
        vq(latent)
    vq.after_step()


def test_vq_replaces_every_latent_by_its_nearest_code():
    torch.manual_seed(0)
    vq, latent = Vq(VQ, Z), torch.randn(7, Z)
    out = vq(latent)
    torch.testing.assert_close(out.latent, naive_quantize(vq, latent)[0])
    expected = VQ.commitment_weight * (latent - out.latent).square().mean()
    torch.testing.assert_close(out.loss, expected)


def test_vq_codes_follow_the_moving_averages_of_a_naive_reference():
    torch.manual_seed(0)
    vq = Vq(VqConfig(num_codebooks=2, num_discrete_latents=3, num_codes=5, decay=0.8), Z)
    step(vq, torch.randn(64, Z))  # the first step sets the codes
    count, total = vq.ema_count.clone(), vq.ema_sum.clone()
    for _ in range(5):
        latent = torch.randn(64, Z)
        _, chosen = naive_quantize(vq, latent)
        for (n, k), values in chosen.items():
            count[n, k] = 0.8 * count[n, k] + 0.2 * len(values)
            total[n, k] = 0.8 * total[n, k] + 0.2 * sum(values, torch.zeros(2))
        step(vq, latent)
        torch.testing.assert_close(vq.codebook, total / count[..., None])


def test_vq_codes_do_not_depend_on_gradient_accumulation():
    torch.manual_seed(0)
    whole = Vq(VQ, Z)
    step(whole, torch.randn(32, Z))
    parts = Vq(VQ, Z)
    parts.load_state_dict(whole.state_dict())
    latent = torch.randn(32, Z)
    step(whole, latent)
    step(parts, *latent.chunk(4))
    torch.testing.assert_close(whole.codebook, parts.codebook)


def test_vq_revives_codes_by_latents_of_the_first_pass_of_a_step():
    """With supervision the second pass is that of the labeled windows."""
    vq = Vq(VQ, Z)
    step(vq, torch.full((64, Z), 3.0), torch.full((64, Z), -3.0))
    assert (vq.codebook == 3.0).all()


def test_vq_passes_gradients_straight_through_and_pulls_latents_to_their_codes():
    torch.manual_seed(0)
    vq, latent = Vq(VQ, Z), torch.randn(4, Z, requires_grad=True)
    out = vq(latent)
    (out.latent.sum() + 0 * out.loss).backward()
    torch.testing.assert_close(latent.grad, torch.ones(4, Z))
    latent.grad = None
    vq(latent).loss.backward()
    assert torch.equal(latent.grad.sign(), (latent - out.latent).detach().sign())


def test_vq_revives_codes_that_no_latent_chooses():
    torch.manual_seed(0)
    vq = Vq(VQ, Z)
    step(vq, torch.randn(32, Z))
    vq.codebook[:, 0] = vq.ema_sum[:, 0] = 1e6
    vq.ema_count[:, 0] = 1
    for _ in range(VQ.revive_after_steps - 1):
        step(vq, torch.randn(32, Z))
        assert (vq.codebook[:, 0] > 1e3).all()
    step(vq, torch.randn(32, Z))
    assert (vq.codebook.abs() < 10).all()


def test_vq_does_not_learn_in_eval_mode():
    vq = Vq(VQ, Z).eval()
    before = vq.codebook.clone()
    step(vq, torch.randn(8, Z))
    assert torch.equal(vq.codebook, before)


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half])
def test_vq_keeps_the_exact_values_of_its_averages_when_the_model_is_cast(cast):
    exact = 1 + 2**-20  # both types make 1 of it
    model = nn.Sequential(nn.Linear(Z, Z), Vq(VQ, Z))
    for buffer in model[1].buffers():
        buffer.fill_(exact)
    assert cast(model)[0].weight.dtype != torch.float32
    for buffer in cast(model)[1].buffers():
        assert torch.equal(buffer, torch.full_like(buffer, exact, dtype=torch.float32))


def test_vq_reports_how_many_codes_are_in_use():
    vq = Vq(VqConfig(num_codebooks=1, num_discrete_latents=1, num_codes=4), 2)
    vq.codebook.copy_(torch.tensor([[[0.0, 0], [10, 0], [0, 10], [10, 10]]]))
    metrics = vq(torch.tensor([[0.0, 0.0], [0.1, 0.0], [10.0, 0.0], [10.0, 0.2]])).metrics
    assert metrics["codebook/usage"] == 0.5
    torch.testing.assert_close(metrics["codebook/perplexity"], torch.tensor(2.0))


def _two_steps_of_rank(rank: int, folder: Path) -> None:
    with group_of_two(rank, folder / "store"):
        vq, first, second = seeded_vq_and_batches()
        step(vq, first.chunk(2)[rank])
        torch.manual_seed(rank)
        step(vq, second.chunk(2)[rank])
        torch.save(vq.codebook, folder / f"{rank}.pt")


def seeded_vq_and_batches() -> tuple[Vq, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Vq(VQ, Z), torch.randn(16, Z), torch.randn(16, Z)


def test_vq_codes_are_those_of_one_process_on_all_ranks(tmp_path):
    run_two(_two_steps_of_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(*ranks)
    # One process draws other starting codes from its batch, so start it from rank 0's share.
    vq, first, second = seeded_vq_and_batches()
    vq(first)
    counts, sums, _ = vq._collected
    torch.manual_seed(0)
    other, first, _ = seeded_vq_and_batches()
    other(first.chunk(2)[0])
    vq._collected = counts, sums, other._collected[2]
    vq.after_step()
    step(vq, second)
    torch.testing.assert_close(ranks[0], vq.codebook)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 2), (3, 4)])
def test_fsq_gives_every_code_an_index_of_its_own(levels):
    fsq = Fsq(FsqConfig(levels=levels), 2 * len(levels))
    codes = torch.cartesian_prod(*((torch.arange(n) - n // 2) / (n // 2) for n in levels))
    indices = fsq.codes_to_indices(codes.repeat(1, 2))
    assert torch.equal(indices[:, 0], indices[:, 1])
    assert torch.equal(indices[:, 0].sort().values, torch.arange(fsq.num_codes))


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 2), (3, 4)])
def test_fsq_outputs_lie_on_its_grid_and_reach_every_level(levels):
    torch.manual_seed(0)
    fsq = Fsq(FsqConfig(levels=levels), len(levels))
    codes = fsq(4 * torch.randn(4000, len(levels))).latent
    digits = codes * (torch.tensor(levels) // 2)
    torch.testing.assert_close(digits, digits.round())
    assert [len(codes[:, i].unique()) for i in range(len(levels))] == list(levels)
    assert codes.abs().max() <= 1


def test_fsq_passes_gradients():
    fsq, latent = Fsq(FsqConfig(levels=(5, 5)), 2), torch.zeros(3, 2, requires_grad=True)
    fsq(latent).latent.sum().backward()
    assert (latent.grad > 0).all()


def test_layernorm_noise_is_noisy_in_training_only_and_never_in_the_label():
    torch.manual_seed(0)
    bottleneck = LayerNormNoise(LayerNormNoiseConfig(noise_std=0.3), 64)
    latent = bottleneck.normalize(5 + 3 * torch.randn(512, 64))
    torch.testing.assert_close(latent.mean(1), torch.zeros(512), atol=1e-5, rtol=0)
    noise = bottleneck(latent).latent - latent
    assert abs(noise.std().item() - 0.3) < 0.01
    assert torch.equal(bottleneck.eval()(latent).latent, latent)


def test_no_bottleneck_is_the_identity():
    latent = torch.randn(2, 3)
    out = NoBottleneck(NoBottleneckConfig(), 3)(latent)
    assert torch.equal(out.latent, latent) and out.loss == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vq(VqConfig(), 100), "multiple of the number of discrete latents"),
        (lambda: Fsq(FsqConfig(), 6), "multiple of the number of fsq levels"),
        (lambda: LayerNormNoise(LayerNormNoiseConfig(), 2), "at least 3"),
    ],
)
def test_a_latent_size_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.lists(st.integers(0, 11), min_size=2, max_size=40))
def test_usage_from_choices_is_that_from_counts(choices):
    indices = torch.tensor(choices)
    counts = torch.bincount(indices, minlength=12).float()[None]
    by_counts, by_choices = usage_of_counts(counts), usage_of_choices(indices, 12)
    for name, value in by_counts.items():
        torch.testing.assert_close(by_choices[name], value, atol=1e-5, rtol=1e-5)


def test_fsq_counts_codebooks_of_any_size():
    """16 levels in 12 dimensions are 2.8e14 codes: no memory holds a counter for each."""
    fsq = Fsq(FsqConfig(levels=(16,) * 12), 24)
    metrics = fsq(torch.randn(8, 24)).metrics
    assert 1 <= metrics["codebook/perplexity"] <= 16
    with pytest.raises(ValueError, match="more than an int64 counts"):
        FsqConfig(levels=(1024,) * 7)


def test_latents_that_are_not_finite_end_no_forward_pass():
    for value in (float("nan"), float("inf"), -float("inf")):
        latent = torch.randn(8, 4)
        latent[3] = value
        Fsq(FsqConfig(), 4)(latent)
        Vq(VqConfig(num_codebooks=1, num_discrete_latents=2, num_codes=4), 4)(latent)


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5, 0.999])
def test_codes_that_nobody_chooses_never_become_nan(decay):
    """Their weight decays to zero: at decay 0 at once, at 0.1 after 50 steps."""
    cfg = VqConfig(
        num_codebooks=1,
        num_discrete_latents=1,
        num_codes=8,
        decay=decay,
        revive_after_steps=10_000,
    )
    torch.manual_seed(0)
    vq = Vq(cfg, 2)
    for _ in range(200):
        vq(torch.randn(2, 2) * 0.01)
        vq.after_step()
    assert torch.isfinite(vq.codebook).all()


def test_a_single_choice_has_no_perplexity():
    assert torch.isnan(usage_of_choices(torch.tensor([3]), 12)["codebook/perplexity"])
    assert torch.isnan(usage_of_counts(torch.eye(4)[:1])["codebook/perplexity"])
