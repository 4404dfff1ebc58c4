import numpy as np
import pytest
import torch

from lafp.evaluate.acting.open_loop import open_loop_errors
from lafp.types import ActionSpec, ClipBatch

SPEC = ActionSpec(dim=2, low=(-2.0, -2.0), high=(2.0, 2.0))


class ReadsTheActionFromThePixels:
    """The batch below paints a frame's action into its first pixel."""

    def __init__(self, bias=0.0):
        self.bias = bias

    def reset(self, num_episodes, seed):
        self.num_episodes = num_episodes

    reads = frozenset({"image"})

    def act(self, obs):
        assert len(obs) == self.num_episodes
        return obs[:, 0, 0, :2] / 64.0 - 2 + self.bias


def clips(num_frames):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(len(num_frames), max(num_frames), 4, 4, 3), dtype=np.uint8)
    return ClipBatch(
        frames=torch.from_numpy(frames),
        num_frames=torch.tensor(num_frames),
        clip_key=torch.arange(len(num_frames)),
        epoch=torch.zeros(len(num_frames), dtype=torch.int64),
        true_action=torch.from_numpy(frames[:, :, 0, 0, :2].astype(np.float32) / 64 - 2),
    )


def test_an_actor_that_is_right_has_no_error():
    errors = open_loop_errors(ReadsTheActionFromThePixels(), [clips([5, 3]), clips([4])], SPEC)
    assert errors["action_mse"] == 0
    assert errors["action_r2"] == 1


def test_every_transition_counts_and_padding_does_not():
    errors = open_loop_errors(ReadsTheActionFromThePixels(), [clips([5, 3]), clips([4])], SPEC)
    assert errors["num_transitions"] == 4 + 2 + 3


def test_a_constant_bias_is_its_square():
    errors = open_loop_errors(ReadsTheActionFromThePixels(bias=0.5), [clips([9, 9])], SPEC)
    assert errors["action_mse"] == pytest.approx(0.25)
