"""Experts of Procgen from checkpoints of joonleesky/train-procgen-pytorch or level-replay."""

# Shape suffixes in this file: B batch, C channels, H height, W width.

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.config import ConfigError

_BLOCKS = ("block1", "block2", "block3")
_CONVOLUTIONS = ("conv", "res1.conv1", "res1.conv2", "res2.conv1", "res2.conv2")
_LAYERS = {f"embedder.{block}.{conv}" for block in _BLOCKS for conv in _CONVOLUTIONS}
_LAYERS |= {"embedder.fc", "fc_policy", "fc_value"}
_IN_LEVEL_REPLAY = {
    f"base.layer{number}.{there}": f"embedder.block{number}.{here}"
    for number in (1, 2, 3)
    for there, here in (
        ("0", "conv"),
        *((f"{2 + n}.conv{c}", f"res{1 + n}.conv{c}") for n in (0, 1) for c in (1, 2)),
    )
} | {
    "base.fc": "embedder.fc",
    "base.critic_linear": "fc_value",
    "dist.linear": "fc_policy",
}
"""Layers of facebookresearch/level-replay's ``ResNetBase`` -> those of train-procgen-pytorch."""
_REPOSITORIES = "joonleesky/train-procgen-pytorch or facebookresearch/level-replay"
_BATCH_SIZE = 32
"""Every batch is filled up to this size. Convolutions round differently at other batch sizes, and
an episode must not depend on how many run beside it."""


class ImpalaExpert:
    """A PPO actor with IMPALA's residual network (Espeholt et al., arXiv:1802.01561).

    The checkpoint determines the widths of the layers.
    """

    def __init__(self, path: str, num_actions: int) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(
                f"expert: {path} is no file. Name a checkpoint of {_REPOSITORIES}, or random."
            )
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            # Forks of the repository, and level-replay, call it model_state_dict.
            weights = checkpoint.get("model_state_dict") or checkpoint["state_dict"]
            # The first ReLU of a residual block of level-replay works in place, so that its input
            # is also what the block adds to.
            self._adds_to_relu = any(name.startswith("base.layer1") for name in weights)
            weights = {_renamed(name): weight for name, weight in weights.items()}
            self._weights: dict[str, Tensor] = {n: w.float() for n, w in weights.items()}
            unknown = {name.rpartition(".")[0] for name in weights} - _LAYERS
            given = self._probabilities(torch.zeros(1, 3, 64, 64)).shape[1]
        except Exception as error:  # torch raises anything for a file that is no checkpoint
            raise ConfigError(
                f"expert: {path} holds no PPO actor on IMPALA's network ({error!r}). Name a "
                f"checkpoint of {_REPOSITORIES}, or random."
            ) from None
        if unknown:
            raise ConfigError(
                f"expert: {path} has other layers than IMPALA's: {', '.join(sorted(unknown))}. "
                "Name a checkpoint without them, or random."
            )
        if given != num_actions:
            raise ConfigError(
                f"expert: {path} knows {given} actions, Procgen has {num_actions}. Name a "
                f"checkpoint with {num_actions}, or random."
            )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Maps pictures, uint8 [N, 64, 64, 3], to probabilities of actions, float64 [N, A]."""
        pixels_NCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        parts = []
        for pixels_BCHW in pixels_NCHW.split(_BATCH_SIZE):
            missing = _BATCH_SIZE - len(pixels_BCHW)
            filled_BCHW = F.pad(pixels_BCHW, (0, 0, 0, 0, 0, 0, 0, missing))
            parts.append(self._probabilities(filled_BCHW)[: len(pixels_BCHW)])
        return torch.cat(parts).double().numpy()

    @torch.inference_mode()
    def _probabilities(self, x_BCHW: Tensor) -> Tensor:
        for block in _BLOCKS:
            x_BCHW = F.max_pool2d(self._conv(f"{block}.conv", x_BCHW), 3, stride=2, padding=1)
            for residual in (f"{block}.res1", f"{block}.res2"):
                positive_BCHW = x_BCHW.relu()
                hidden_BCHW = self._conv(f"{residual}.conv1", positive_BCHW)
                kept_BCHW = positive_BCHW if self._adds_to_relu else x_BCHW
                x_BCHW = kept_BCHW + self._conv(f"{residual}.conv2", hidden_BCHW.relu())
        embedding = self._linear("embedder.fc", x_BCHW.relu().flatten(1)).relu()
        return self._linear("fc_policy", embedding).softmax(1)

    def _conv(self, name: str, x_BCHW: Tensor) -> Tensor:
        weight, bias = (self._weights[f"embedder.{name}.{part}"] for part in ("weight", "bias"))
        return F.conv2d(x_BCHW, weight, bias, padding=1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])


def _renamed(parameter: str) -> str:
    """Returns the name of a parameter in train-procgen-pytorch."""
    layer, _, part = parameter.rpartition(".")
    return f"{_IN_LEVEL_REPLAY.get(layer, layer)}.{part}"
