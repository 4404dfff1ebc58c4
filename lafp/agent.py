"""An agent loads a finished run and maps observations to actions. It needs no Ray and no data."""

# Shape suffixes in this file: N episodes, H height, W width, C channels.

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import numpy as np
import torch

from lafp import storage
from lafp.finished.devices import usable_device
from lafp.finished.export import export_agent
from lafp.finished.hub import local_copy
from lafp.finished.lam_action_decoder import LamActionDecoder
from lafp.finished.load import load_models
from lafp.finished.step import AgentStep, Memory
from lafp.models.action_decoder import ActionDecoder, TrueActions
from lafp.policies.base import Policy
from lafp.types import ActionSpec, ObsSpec

Observation = np.ndarray | Mapping[str, np.ndarray]
"""An image, or ``{"image": ..., "state": ..., "condition": ...}`` with the keys of ``reads``."""
Dtype = Literal["float32", "bfloat16"]
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MAX_GRAPHS = 64


class Agent:
    """Controls one episode, or several in parallel.

        agent = Agent.load("runs/mine")
        agent.reset()
        action = agent.act(camera.read())  # every 1 / agent.fps seconds

    The agent keeps each episode's frame stack and the policy's state. ``reset`` begins new
    episodes.

    Args:
        policy: A frozen policy in eval mode, on the device where the agent shall run. The agent
            changes this object: it casts the image encoder to ``dtype`` in place.
        action_decoder: The decoder on the same device.
        dtype: See ``load``.
        sample_actions: See ``load``.
        compile: See ``load``.
    """

    def __init__(
        self,
        policy: Policy,
        action_decoder: ActionDecoder | LamActionDecoder | TrueActions,
        *,
        dtype: Dtype = "float32",
        sample_actions: bool = False,
        compile: bool = False,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}.")
        self.policy, self.action_decoder = policy, action_decoder
        self._device = next(policy.parameters()).device
        self.step = AgentStep(policy, action_decoder, _DTYPES[dtype], sample_actions)
        self._compiled = _compiled(self.step) if compile else self.step
        self.reset()

    @classmethod
    def load(
        cls,
        run_dir: str | os.PathLike[str],
        *,
        policy: str | None = None,
        action_decoder: str | None = None,
        lam: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        noise: str | None = None,
        noise_hold_steps: int | None = None,
        num_solver_steps: int | None = None,
        dtype: Dtype = "float32",
        sample_actions: bool = False,
        compile: bool = False,
    ) -> Self:
        """Loads the agent of a finished run.

        Args:
            run_dir: The run's folder, local, on S3, or on the Hugging Face Hub:
                ``hf://USER/NAME``, with ``@REVISION`` if wanted.
            policy: Name of a folder in ``policy/``. By default the policy that the decoder was
                trained on.
            action_decoder: Name of a folder in ``decoder/``. Needed when the run has several action
                decoders for the policy. ``idm`` is the head that was trained inside the LAM (LAFP's
                IDM-AD). A policy of true actions (``train_bc``) has no action decoder.
            lam: Only for ``idm``: the folder of the LAM if it lies outside of the run, because the
                policy was trained on one that was given. Addresses in a run's files are not opened.
            device: The device that the agent runs on.
            noise: Replaces the ``noise`` of the policy's config; latent_flow only.
            noise_hold_steps: Replaces the value of the policy's config, for noise ``held``.
            num_solver_steps: Replaces the value of the policy's config; latent_flow only.
            dtype: ``bfloat16`` runs the image encoder in bfloat16 and the rest in float32. This
                halves the memory and is meant for GPUs. In tests, actions change by less than a
                hundredth of their range.
            sample_actions: Discrete actions only: draw each action from the decoder's distribution.
                By default the likeliest one is taken.
            compile: Uses ``torch.compile``. The first step that begins all episodes, none or some
                of them compiles once, which takes up to a minute, and once more when the number of
                episodes first changes, and when it first is one. A CPU needs a C++ compiler.

        Raises:
            ConfigError: A model is missing or has another format version, the decoder was trained
                on another policy, several decoders fit, the device is not available, or continuous
                actions are to be sampled.
        """
        options: dict[str, Any] = {
            "noise": noise,
            "noise_hold_steps": noise_hold_steps,
            "num_solver_steps": num_solver_steps,
        }
        overrides = {key: value for key, value in options.items() if value is not None}
        models = load_models(
            local_copy(storage.uri_of(run_dir)),
            policy,
            action_decoder,
            None if lam is None else local_copy(storage.uri_of(lam)),
            usable_device(device),
            overrides,
        )
        return cls(*models, dtype=dtype, sample_actions=sample_actions, compile=compile)

    @property
    def fps(self) -> float:
        """Control rate, equal to that of the training videos: call ``act`` every 1 / fps s."""
        return self.policy.obs.fps

    @property
    def action(self) -> ActionSpec:
        """Dimensions of an action, and their bounds in the environment's units."""
        return self.action_decoder.action

    @property
    def reads(self) -> frozenset[str]:
        """Keys that ``act`` requires: ``image``, and ``state`` or ``condition`` if it is read."""
        return frozenset({"image", *self.policy.obs.vector_dims})

    @property
    def obs(self) -> ObsSpec:
        """Size of an observation in pixels, its frame rate, and the policy's frame stack."""
        return self.policy.obs

    def reset(self, num_episodes: int = 1, seed: int = 0) -> None:
        """Begins new episodes.

        Args:
            num_episodes: Number of episodes that each call of ``act`` controls.
            seed: Seed of the noise, which is the same on every device.

        Raises:
            ValueError: ``num_episodes`` is less than 1.
        """
        if num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1, got {num_episodes}.")
        self.num_episodes = num_episodes
        self._is_on = torch.ones(num_episodes, dtype=torch.bool)
        # On the CPU, so that a seed gives the same noise on every device.
        self._generator = torch.Generator().manual_seed(seed)
        self._memory: Memory | None = None
        self._is_first_N = np.zeros(num_episodes, np.bool_)

    def sibling(self) -> Self:
        """Makes an agent with episodes of its own on the same models, e.g. for a second robot."""
        other = copy.copy(self)
        other.reset()
        return other

    def reset_where(self, is_over: np.ndarray) -> None:
        """Begins a new episode wherever ``is_over`` is true; the other episodes go on.

        Use it when environments end at different times: pass their ``done``, then call ``act``
        with the first observations of the new episodes.

        Args:
            is_over: bool [N].

        Raises:
            ValueError: ``is_over`` is not one boolean per episode.
        """
        self._is_first_N = self._is_first_N | self._one_per_episode(is_over)

    def end_where(self, is_over: np.ndarray) -> None:
        """Ends episodes: ``act`` takes the observations of the others from now on, in their order.

        What the others do does not depend on it, but for the rounding of another batch size.

        Args:
            is_over: bool [N].

        Raises:
            ValueError: ``is_over`` is not one boolean per episode.
        """
        goes_on = torch.from_numpy(~self._one_per_episode(is_over))
        self._is_on[self._is_on.clone()] = goes_on
        self.num_episodes = int(goes_on.sum())
        self._is_first_N = self._is_first_N[goes_on.numpy()]
        if self._memory is not None:
            self._memory = self._memory.rows(goes_on.to(self._device))

    @torch.inference_mode()
    def act(self, obs: Observation) -> np.ndarray:
        """Chooses the next action from the current observation.

        Call it exactly once per step, because the agent remembers earlier frames.

        Args:
            obs: An RGB image, uint8 [H, W, 3], or [N, H, W, 3] for the N episodes of ``reset``. Or
                ``{"image": ..., "state": ..., "condition": ...}`` with the keys of ``reads``: the
                robot's state, [S] or [N, S], and the condition (the goal of the episode as
                numbers), [G] or [N, G], both in the units of the training data.

        Returns:
            float32 [A] or [N, A] in the environment's units; discrete: int64, scalar or [N].

        Raises:
            ValueError: ``obs`` has other keys, shapes or types than the policy was trained on.
        """
        image, vectors_NV = self._parted(obs)
        is_single = np.ndim(image) == 3
        frame_NHWC = torch.from_numpy(self._checked(image)).to(self._device)
        vectors_NV = None if vectors_NV is None else vectors_NV.to(self._device)
        # Drawn for those that are over too, so that their end changes nothing for the others.
        noise = self.step.draw_noise(len(self._is_on), self._generator)[self._is_on]
        noise = noise.to(self._device)
        is_first_N = None
        if self._memory is not None and self._is_first_N.any():
            is_first_N = torch.from_numpy(self._is_first_N).to(self._device)
        action, self._memory = self._compiled(
            frame_NHWC, noise, self._memory, is_first_N, vectors_NV
        )
        self._is_first_N = np.zeros_like(self._is_first_N)
        action = action.cpu().numpy()
        return action[0] if is_single else action

    def export(self, uri: str | os.PathLike[str]) -> None:
        """Writes one step of this agent to a file that runs without lafp, for any number N.

        The file's inputs are ``frame`` uint8 [N, H, W, 3], ``is_first`` bool [N] (true where an
        episode begins), ``noise`` float32 [N, noise_dim] (drawn from N(0, I) at every step), and
        the state, which is zeros at first. Its outputs are the action and the next state. The
        file's ``lafp_agent.json`` (in ONNX: metadata of that name) lists the shapes, the control
        rate and the action's bounds. The file works for this agent's device, dtype, noise mode and
        solver steps. An ONNX file is always in float32, because ONNX has no bfloat16 convolutions.

        Args:
            uri: Local path or S3 URI that ends with ``.pt2`` (``torch.export``) or ``.onnx`` (ONNX,
                extra ``onnx``).

        Raises:
            ConfigError: ``uri`` has another ending, or the extra is missing.
        """
        export_agent(self.step, storage.uri_of(uri))

    def _one_per_episode(self, is_over: np.ndarray) -> np.ndarray:
        is_over = np.asarray(is_over)
        if is_over.shape != (self.num_episodes,) or is_over.dtype != np.bool_:
            raise ValueError(
                f"Expected {self.num_episodes} booleans, one per episode, got "
                f"{is_over.dtype} of shape {list(is_over.shape)}."
            )
        return is_over

    def _parted(self, obs: Observation) -> tuple[np.ndarray, torch.Tensor | None]:
        """Splits an observation into its image and its vectors, concatenated, and checks keys."""
        given = obs if isinstance(obs, Mapping) else {"image": obs}
        if given.keys() != self.reads:
            raise ValueError(
                f"This policy reads {' and '.join(sorted(self.reads))}, got "
                f"{', '.join(sorted(map(str, given))) or 'nothing'}."
            )
        dims = self.policy.obs.vector_dims
        vectors = [self._checked_vector(name, given[name], dim) for name, dim in dims.items()]
        return given["image"], torch.cat(vectors, dim=1) if vectors else None

    def _checked_vector(self, name: str, vector: np.ndarray, dim: int) -> torch.Tensor:
        """Returns a state or condition as float32 [N, dim], or raises ValueError."""
        values = np.asarray(vector)
        values = values[None] if values.ndim == 1 else values
        want = (self.num_episodes, dim)
        if values.shape != want or values.dtype.kind not in "fiub":
            raise ValueError(
                f"Expected {name}s {list(want)} of numbers for {self.num_episodes} episode(s), got "
                f"{values.dtype} {list(np.shape(vector))}."
            )
        # Values that are too large become infinite, which the check below names.
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"The {name} holds a value that is not finite in float32.")
        return torch.from_numpy(values)

    def _checked(self, obs: np.ndarray) -> np.ndarray:
        """Returns the image as uint8 [N, H, W, 3], or raises ValueError."""
        spec = self.policy.obs
        frames = np.asarray(obs)
        frames = frames[None] if frames.ndim == 3 else frames
        want = (self.num_episodes, spec.height_px, spec.width_px, 3)
        if frames.shape != want:
            raise ValueError(
                f"Expected observations {list(want[1:])} (H, W, RGB) of {self.num_episodes} "
                f"episode(s), got an array of shape {list(np.shape(obs))}. Resize frames as in "
                "preprocessing; for other numbers of episodes call reset(num_episodes=...)."
            )
        if frames.dtype != np.uint8:
            raise ValueError(
                f"Expected uint8 pixels from 0 to 255, got {frames.dtype} from {frames.min():g} "
                f"to {frames.max():g}. Pass the camera's image as it is, or an image in [0, 1] as "
                "(255 * image).round().astype(np.uint8)."
            )
        # ``torch.from_numpy`` refuses negative strides, as of a mirrored picture.
        return np.ascontiguousarray(frames)


def _compiled(step: AgentStep) -> Callable[..., tuple[torch.Tensor, Memory]]:
    """Compiles a step.

    There are three graphs: where all episodes begin, where none does, and where some do; each for
    the first number of episodes, for one, and for any number.
    """
    # PyTorch counts the graphs of all agents of a process together, and the ninth would be an
    # error. The limit is raised here once, because doing so per call costs time in each step.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MAX_GRAPHS)
    return torch.compile(step, fullgraph=True)
