import pytest
import torch

from lafp.models import ENCODERS
from lafp.models.encoders import SmallCnnConfig, StridedResnet, StridedResnetConfig
from lafp.models.vit import Block, Vit, VitConfig
from lafp.types import ObsSpec


@pytest.mark.parametrize("name", ENCODERS.names())
@pytest.mark.parametrize("size_px", [(48, 48), (30, 50), (17, 23)])
def test_every_encoder_embeds_every_image_size(tiny_dinov2, name, size_px):
    obs = ObsSpec(height_px=size_px[0], width_px=size_px[1], frame_stack=2, fps=10.0)
    encoder_class = ENCODERS.get(name)
    options = {"path": str(tiny_dinov2), "image_size_px": 28, "grid_size": 2}
    cfg = encoder_class.Config(**(options if name == "dinov2" else {}))
    encoder = encoder_class(cfg, obs)
    assert encoder(torch.zeros(3, 6, *size_px)).shape == (3, encoder.embed_dim)


def test_a_vit_sees_where_things_are_and_every_frame():
    obs = ObsSpec(height_px=20, width_px=28, frame_stack=2, fps=10.0)
    torch.manual_seed(0)
    vit = Vit(VitConfig(patch_size_px=8, width=24, depth=2, num_heads=2), obs)
    image = torch.zeros(1, 6, 20, 28)
    embeddings = [vit(image)]
    for channel, row, column in ((0, 0, 0), (0, 19, 27), (0, 10, 14), (5, 0, 0)):
        changed = image.clone()
        changed[:, channel, row, column] = 1
        embeddings.append(vit(changed))
    distances = torch.cdist(torch.cat(embeddings), torch.cat(embeddings))
    assert (distances + torch.eye(5) > 1e-4).all()


def test_a_vits_attention_is_the_softmax_of_the_paper():
    torch.manual_seed(0)
    block = Block(VitConfig(width=12, num_heads=3))
    tokens = torch.randn(2, 5, 12)
    query, key, value = block.to_qkv(tokens).chunk(3, dim=-1)
    heads = []
    for q, k, v in zip(query.split(4, -1), key.split(4, -1), value.split(4, -1), strict=True):
        heads.append((q @ k.transpose(1, 2) / 4**0.5).softmax(-1) @ v)
    expected = block.from_heads(torch.cat(heads, -1))
    torch.testing.assert_close(block._attention(tokens), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "num_heads": 3}, "width 10 is no multiple of num_heads 3"),
        ({"patch_size_px": 0}, "patch_size_px must be at least 1, got 0"),
    ],
)
def test_an_impossible_vit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VitConfig(**options)


def test_an_observation_of_another_shape_is_refused_with_both_shapes():
    obs = ObsSpec(height_px=32, width_px=32, frame_stack=1, fps=10.0)
    encoder = ENCODERS.get("small_cnn")(SmallCnnConfig(), obs)
    with pytest.raises(ValueError, match=r"\[B, 3, 32, 32\].*got \(1, 3, 16, 16\)"):
        encoder(torch.zeros(1, 3, 16, 16))


def test_the_laom_encoder_has_the_papers_size_at_64_px():
    obs = ObsSpec(height_px=64, width_px=64, frame_stack=3, fps=10.0)
    assert StridedResnet(StridedResnetConfig(), obs).embed_dim == 32 * 6 * 8 * 8


def test_the_output_norm_gives_every_embedding_mean_0_and_variance_1():
    obs = ObsSpec(height_px=16, width_px=16, frame_stack=1, fps=10.0)
    cfg = StridedResnetConfig(scale=1, has_output_norm=True)
    embedding = StridedResnet(cfg, obs)(torch.rand(4, 3, 16, 16))
    torch.testing.assert_close(embedding.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding.var(1, correction=0), torch.ones(4), atol=1e-2, rtol=0)
