"""No training step of a policy or of an action decoder makes the host wait for its device."""

import pytest
import torch

from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.train.tasks.trained_decoder import DecoderInputs, TrainedDecoder
from lafp.train.tasks.trained_policy import PolicyInputs, TrainedPolicy
from lafp.train.transitions import Transitions, anchored_latents
from lafp.types import ActionSpec
from tests.lafp.objectives.test_no_waiting import BATCH_SIZE, META, backward, copies_of_a_second
from tests.lafp.policies.test_policies import make

VARIANTS = [
    ("latent_bc", {}),
    ("latent_flow", {}),
    ("latent_flow", {"prediction": "x", "loss_space": "x"}),
    ("latent_flow", {"time": {"name": "logit_normal"}, "standardizer": {"name": "std"}}),
    ("latent_flow", {"time": {"name": "beta"}, "standardizer": {"name": "range"}}),
    ("latent_flow", {"chunk_steps": 3, "execute_steps": 2}),
    ("latent_mean_flow", {}),
]


def on_device(name, config):
    return make(name, **config).to(META)


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_a_step_of_a_policy_asks_for_nothing_and_copies_nothing(name, config, monkeypatch):
    monkeypatch.setattr(torch, "_sample_dirichlet", torch.empty_like)  # meta knows none
    trained = TrainedPolicy(on_device(name, config)).train()
    chunk_steps = config.get("chunk_steps", 1)
    steps = (chunk_steps,) if chunk_steps > 1 else ()
    inputs = PolicyInputs(
        obs=torch.zeros(BATCH_SIZE, 3, 8, 8, device=META),
        latent_action=torch.zeros(BATCH_SIZE, *steps, 2, device=META),
        has_step=torch.ones(BATCH_SIZE, *steps, dtype=torch.bool, device=META) if steps else None,
    )
    assert copies_of_a_second(lambda: backward(trained, inputs)) == []


@pytest.mark.parametrize("anchors", [(0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("steps_taken", ["remaining", "all", "one"])
@pytest.mark.parametrize("name", ["latent_flow", "latent_mean_flow"])
def test_a_step_of_an_action_decoder_asks_for_nothing_and_copies_nothing(
    name, steps_taken, anchors
):
    policy = on_device(name, {}).requires_grad_(False).eval()
    action = ActionSpec(dim=2, low=(-1.0, -2.0), high=(1.0, 2.0))
    decoder = ActionDecoder(ActionDecoderConfig(), action, 2, policy.embed_dim)
    trained = TrainedDecoder(decoder, anchors, steps_taken).to(META)
    embedding = torch.zeros(BATCH_SIZE, policy.embed_dim, device=META)
    transitions = Transitions(
        embedding=embedding,
        chunk_embedding=embedding,
        idm_chunk=torch.zeros(BATCH_SIZE, 1, 2, device=META),
        position=torch.zeros(BATCH_SIZE, dtype=torch.int64, device=META),
        true_action=torch.zeros(BATCH_SIZE, 2, device=META),
    )

    def step() -> None:
        with torch.no_grad():
            latent_action = anchored_latents(policy, transitions, anchors, steps_taken)
        backward(trained, DecoderInputs(transitions=transitions, latent_action=latent_action))

    assert copies_of_a_second(step) == []
