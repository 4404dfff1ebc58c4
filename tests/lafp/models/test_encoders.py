import pytest
import torch

from lafp.models import ENCODERS
from lafp.models.encoders import SmallCnnConfig, StridedResnet, StridedResnetConfig
from lafp.types import ObsSpec


@pytest.mark.parametrize("name", ENCODERS.names())
@pytest.mark.parametrize("size_px", [(48, 48), (30, 50), (17, 23)])
def test_every_encoder_embeds_every_image_size(name, size_px):
    obs = ObsSpec(height_px=size_px[0], width_px=size_px[1], frame_stack=2, fps=10.0)
    encoder_class = ENCODERS.get(name)
    encoder = encoder_class(encoder_class.Config(), obs)
    assert encoder(torch.zeros(3, 6, *size_px)).shape == (3, encoder.embed_dim)


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
