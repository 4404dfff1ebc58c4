"""Experts of the DeepMind Control Suite from checkpoints in the format of dunnolab/laom."""

from pathlib import Path

import numpy as np

from lafp.config import ConfigError

_LAYERS = (0, 2, 4)
_MAX_NORMALIZED = 10.0


class PpoExpert:
    """A PPO actor: normalized observation, two tanh layers, mean of the action.

    It acts greedily. It computes one observation at a time in float64, because products of batches
    round differently at other batch sizes, and one different bit leads to a different episode.
    """

    def __init__(self, path: str) -> None:
        import torch

        if not Path(path).expanduser().is_file():
            raise ConfigError(
                f"expert: {path} is no file. Name a checkpoint with obs_rms and actor_mean, as "
                "dunnolab/laom has them in scripts/data_collection/checkpoints."
            )
        try:
            weights = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
            arrays = {name: tensor.double().numpy() for name, tensor in weights.items()}
            self._mean, self._variance = arrays["obs_rms.mean"], arrays["obs_rms.var"]
            names = [f"actor_mean.{number}" for number in _LAYERS]
            self._layers = [(arrays[f"{n}.weight"], arrays[f"{n}.bias"]) for n in names]
        except Exception as error:  # torch raises anything for a file that is no checkpoint
            raise ConfigError(
                f"expert: {path} holds no PPO actor ({error!r}). Name a checkpoint with "
                "obs_rms and actor_mean."
            ) from None
        self.obs_dim, self.action_dim = len(self._mean), len(self._layers[-1][1])

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Maps one observation, [S], to the mean of the action, float64 [A], not clipped."""
        scaled = (obs - self._mean) / np.sqrt(self._variance + 1e-8)
        hidden = np.clip(scaled, -_MAX_NORMALIZED, _MAX_NORMALIZED)
        for weight, bias in self._layers[:-1]:
            hidden = np.tanh(weight @ hidden + bias)
        weight, bias = self._layers[-1]
        return weight @ hidden + bias
