import pytest
import torch
import torch.nn.functional as F

from lafp.config import ConfigError
from lafp.finished.load import load_action_decoder
from lafp.finished.saved_model import save_model
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.types import ActionSpec

BOX = ActionSpec(dim=2, low=(-1.0, 0.0), high=(1.0, 10.0))
BUTTONS = ActionSpec(dim=3, is_discrete=True)


def fitted(action, latents, targets, loss, **config):
    torch.manual_seed(0)
    decoder = ActionDecoder(ActionDecoderConfig(**config), action, latents.shape[1], 4)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    embedding = torch.zeros(len(latents), 4)
    for _ in range(300):
        optimizer.zero_grad()
        loss(decoder(latents, embedding), targets).backward()
        optimizer.step()
    return decoder.eval()


def test_a_known_map_is_learned_at_any_scale_of_the_latents():
    latents = torch.randn(200, 3)
    actions = BOX.denormalize(torch.tanh(latents[:, :2]))
    for scale, offset in ((1.0, 0.0), (1e-3, 50.0)):
        decoder = fitted(
            BOX, offset + scale * latents, BOX.normalize(actions), F.mse_loss, hidden_dims=(64,)
        )
        predicted = decoder.decode(offset + scale * latents, torch.zeros(200, 4))
        assert F.mse_loss(predicted, actions) < 0.01 * actions.var()


def test_continuous_actions_stay_within_their_bounds():
    decoder = ActionDecoder(ActionDecoderConfig(), BOX, 3, 4).eval()
    actions = decoder.decode(1e4 * torch.randn(100, 3), torch.zeros(100, 4))
    assert (actions >= torch.tensor(BOX.low)).all() and (actions <= torch.tensor(BOX.high)).all()


def test_discrete_actions_are_learned_as_choices():
    latents = torch.randn(300, 3)
    choices = latents.argmax(1)
    decoder = fitted(BUTTONS, latents, choices, F.cross_entropy, hidden_dims=(32,))
    predicted = decoder.decode(latents, torch.zeros(300, 4))
    assert predicted.dtype == torch.int64
    assert (predicted == choices).float().mean() > 0.95


def test_the_observation_is_read_only_where_configured():
    latents, embeddings = torch.randn(5, 3), torch.randn(2, 5, 4)
    blind = ActionDecoder(ActionDecoderConfig(), BOX, 3, 4).eval()
    seeing = ActionDecoder(ActionDecoderConfig(use_obs_embedding=True), BOX, 3, 4).eval()
    assert torch.equal(blind(latents, embeddings[0]), blind(latents, embeddings[1]))
    assert not torch.equal(seeing(latents, embeddings[0]), seeing(latents, embeddings[1]))


def test_a_saved_decoder_decodes_alike(tmp_path):
    decoder = ActionDecoder(ActionDecoderConfig(hidden_dims=(8,)), BOX, 3, 4)
    decoder(7 + torch.randn(50, 3), torch.zeros(50, 4))  # moves the statistics
    specs = {"action": BOX, "latent_action_dim": 3, "embed_dim": 4, "policy": "p"}
    config = ActionDecoderConfig(hidden_dims=(8,))
    save_model(
        str(tmp_path), kind="decoder", config=config, specs=specs, module=decoder, metrics={}
    )
    loaded, loaded_specs = load_action_decoder(str(tmp_path))
    latents, embedding = torch.randn(6, 3), torch.zeros(6, 4)
    assert torch.equal(loaded.decode(latents, embedding), decoder.eval().decode(latents, embedding))
    assert loaded_specs["policy"] == "p"
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_damaged_weights_are_refused(tmp_path):
    decoder = ActionDecoder(ActionDecoderConfig(), BOX, 3, 4)
    specs = {"action": BOX, "latent_action_dim": 3, "embed_dim": 4}
    save_model(
        str(tmp_path),
        kind="decoder",
        config=ActionDecoderConfig(),
        specs=specs,
        module=decoder,
        metrics={},
    )
    weights = tmp_path / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ConfigError, match="is not the file that"):
        load_action_decoder(str(tmp_path))
