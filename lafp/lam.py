"""Loads finished latent action models and infers latent actions with them."""

import os

import numpy as np
import torch
from torch import Tensor

from lafp import storage
from lafp.config import ConfigError
from lafp.data.windows import stack_frames
from lafp.finished.devices import usable_device
from lafp.finished.hub import local_copy
from lafp.finished.lam_action_decoder import load_objective
from lafp.finished.saved_model import load_model
from lafp.objectives.base import Objective
from lafp.types import ObsSpec


class Lam:
    """Infers latent actions with a frozen latent action model.

    Args:
        objective: The trained model. The constructor puts it into eval mode and freezes it.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective.eval().requires_grad_(False)

    @property
    def obs(self) -> ObsSpec:
        """Size, frame rate and frame stack of the observations that the LAM reads."""
        return self.objective.obs

    @property
    def latent_action_dim(self) -> int:
        """Z, the size of a latent action."""
        return self.objective.latent_action_dim

    @property
    def device(self) -> torch.device:
        """The device of the LAM's weights."""
        return next(self.objective.parameters()).device

    def to(self, device: torch.device | str) -> "Lam":
        """Moves the LAM to ``device`` in place, and returns this object."""
        self.objective.to(device)
        return self

    @torch.no_grad()
    def infer_latent_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Infers the latent actions of pairs of observations.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            next_obs: o_{t+1}, same shape and range.

        Returns:
            z_t, float [B, Z].

        Raises:
            ValueError: An observation has another shape or type than the LAM was trained on.
        """
        for name, given in (("obs", obs), ("next_obs", next_obs)):
            self._check(name, given)
        return self.objective.infer_latent_action(obs, next_obs)

    @torch.no_grad()
    def label_clip(self, frames: np.ndarray, batch_size: int) -> np.ndarray:
        """Infers the latent action of every frame pair of one clip.

        Args:
            frames: uint8 [T, H, W, 3].
            batch_size: Number of pairs per forward pass.

        Returns:
            float32 [T - F, Z], empty if the clip has no more than F frames. Row i is the latent
            action between frames F - 1 + i and F + i.
        """
        stack, num_frames = self.obs.frame_stack, len(frames)
        # The clip is sent once, as bytes. Stacks of its frames as floats would be many times as
        # large.
        clip = torch.from_numpy(frames).to(self.device)[None]
        latents = [np.empty((0, self.latent_action_dim), np.float32)]
        for start in range(stack - 1, num_frames - 1, batch_size):
            end = min(start + batch_size, num_frames - 1)
            t_N = torch.arange(start, end, device=self.device)
            clip_N = torch.zeros_like(t_N)
            obs = stack_frames(clip, clip_N, t_N, stack)
            next_obs = stack_frames(clip, clip_N, t_N + 1, stack)
            latents.append(self.infer_latent_action(obs, next_obs).float().cpu().numpy())
        return np.concatenate(latents)

    @torch.no_grad()
    def embed(self, obs: Tensor) -> Tensor:
        """Returns the model's embedding of o_t alone, float [B, E].

        Raises:
            ValueError: ``obs`` has another shape or type than the LAM was trained on.
        """
        self._check("obs", obs)
        return self.objective.embed(obs)

    def _check(self, name: str, given: Tensor) -> None:
        want = (self.obs.num_channels, self.obs.height_px, self.obs.width_px)
        if not isinstance(given, Tensor) or given.shape[1:] != want or given.ndim != 4:
            found = list(getattr(given, "shape", ())) or type(given).__name__
            raise ValueError(
                f"Expected {name} as a float tensor [B, {', '.join(map(str, want))}] (3 channels "
                f"for each of {self.obs.frame_stack} frames, height, width), got {found}."
            )
        if not given.is_floating_point():
            raise ValueError(
                f"Expected {name} as floats in [-1, 1], got {given.dtype}. Pixels from 0 to 255 "
                "become that by pixels.float() / 127.5 - 1."
            )


def load_lam(uri: str | os.PathLike[str], device: torch.device | str = "cpu") -> Lam:
    """Loads the latent action model that ``train_lam`` wrote into the folder ``uri``.

    The folder is local, on S3, or on the Hugging Face Hub: ``hf://USER/NAME/lam``.

    Raises:
        ConfigError: There is no finished LAM, this version does not read it, or the device is not
            available.
    """
    uri, device = storage.uri_of(uri), usable_device(device)
    folder = local_copy(uri)
    if not storage.is_file(storage.join(folder, "model.json")) and (
        storage.is_file(storage.join(folder, "lam", "model.json"))
    ):
        raise ConfigError(f"{uri} is the folder of a run. Its LAM is {storage.join(uri, 'lam')}.")
    return Lam(load_objective(folder, device))


def initialize_from(objective: Objective, uri: str) -> None:
    """Gives a new model the weights of the finished LAM in the folder ``uri``.

    Settings that no weight depends on (augmentation, noise, loss) may differ.

    Raises:
        ConfigError: There is no finished LAM, or it has another objective or other shapes.
    """
    card, weights = load_model(uri, "lam")
    if (name := card["config"]["name"]) != objective.cfg.name:
        raise ConfigError(
            f"init_from: {uri} is a LAM of objective {name}, this run trains {objective.cfg.name}. "
            "Use the same objective."
        )
    shapes = {key: tuple(value.shape) for key, value in objective.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in weights.items()}
    differences = [
        f"{key}: {theirs.get(key, 'not there')} in the LAM, {shapes.get(key, 'not there')} here"
        for key in dict.fromkeys([*shapes, *theirs])
        if shapes.get(key) != theirs.get(key)
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        obs = card["specs"]["obs"]
        raise ConfigError(
            f"init_from: the weights of {uri} do not fit. {'; '.join(differences[:3])}{more}. "
            f"It sees {obs['frame_stack']} frames of {obs['height_px']}x{obs['width_px']} px, this "
            f"model {objective.obs.frame_stack} of {objective.obs.height_px}x"
            f"{objective.obs.width_px}. Use the `objective` of {uri}/model.json, its "
            "window.frame_stack and its frame size."
        )
    objective.load_state_dict(weights)
