import torch
import torch.nn.functional as F

from lafp.models.patch_transformer import (
    Blocks,
    PairAttention,
    PatchFdm,
    PatchIdm,
    TransformerConfig,
)

CFG = TransformerConfig(width=32, depth=2, num_heads=2)
PAIR = torch.randn(3, 2, 9, 12, generator=torch.Generator().manual_seed(0))


def idm(**changes) -> PatchIdm:
    torch.manual_seed(0)
    cfg = TransformerConfig(**vars(CFG) | changes)
    return PatchIdm(cfg, num_patches=9, patch_dim=12, num_action_tokens=2, latent_action_dim=8)


def test_the_second_frame_sees_the_first_and_not_the_other_way_round():
    model = idm()
    changed = PAIR.clone()
    changed[:, 0] += 1
    assert not torch.isclose(model(PAIR), model(changed)).any()
    alone = model._encode(PAIR[:, :1])
    torch.testing.assert_close(model._encode(PAIR)[:, :1], alone, atol=1e-5, rtol=1e-4)


def test_attention_over_a_pair_is_causal_attention():
    torch.manual_seed(0)
    attention = PairAttention(width=32, num_heads=2)
    tokens_BTNW = 3 * torch.randn(3, 2, 9, 32)
    over_time = tokens_BTNW.transpose(1, 2).flatten(0, 1)
    q, k, v = (
        part.unflatten(-1, (2, 16)).transpose(1, 2)
        for part in attention.qkv(over_time).chunk(3, -1)
    )
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = attention.output(seen.transpose(1, 2).flatten(2)).unflatten(0, (3, 9))
    torch.testing.assert_close(attention(tokens_BTNW), expected.transpose(1, 2))
    alone = attention(tokens_BTNW[:, :1])
    torch.testing.assert_close(alone, expected.transpose(1, 2)[:, :1])


def test_the_embedding_of_a_frame_holds_nothing_of_the_next():
    model = idm()
    assert model.embed(PAIR[:, 0]).shape == (3, 3 * 32)
    encoded = model._encode(PAIR)[:, 0]
    expected = torch.cat([encoded[:, :9].mean(1), encoded[:, 9:].flatten(1)], dim=1)
    torch.testing.assert_close(model.embed(PAIR[:, 0]), expected, atol=1e-5, rtol=1e-4)


def test_patches_are_told_apart_by_their_places():
    shuffled = PAIR[:, :, torch.randperm(9)]
    assert not torch.allclose(idm()(PAIR), idm()(shuffled), atol=1e-4)


def test_computing_activations_again_changes_no_gradient():
    gradients = []
    for is_checkpointed in (False, True):
        model = idm(is_checkpointed=is_checkpointed)
        model(PAIR).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_checkpointed_blocks_keep_a_fraction_of_the_activations():
    kept = {}
    for is_checkpointed in (False, True):
        cfg = TransformerConfig(width=32, depth=6, num_heads=2, is_checkpointed=is_checkpointed)
        saved = {}

        def pack(tensor: torch.Tensor, saved=saved) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Blocks(cfg, is_temporal=True)(torch.randn(8, 2, 9, 32, requires_grad=True))
        kept[is_checkpointed] = sum(saved.values())
    assert kept[True] < 0.2 * kept[False]


def test_the_fdm_predicts_every_patch_from_the_latent_action_too():
    torch.manual_seed(0)
    fdm = PatchFdm(CFG, 9, 12, num_action_tokens=2, latent_action_dim=8, target_dim=5)
    latent = torch.randn(3, 8)
    predicted = fdm(PAIR[:, 0], latent)
    assert predicted.shape == (3, 9, 5)
    assert not torch.isclose(predicted, fdm(PAIR[:, 0], latent + 1)).all(dim=-1).any()


def test_blocks_run_in_bf16_over_fp32_weights():
    model = idm()
    with torch.autocast("cpu", torch.bfloat16):
        latent = model(PAIR)
    latent.float().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
