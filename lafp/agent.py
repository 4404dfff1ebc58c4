"""What a user deploys: a finished run as obs -> action, without Ray and without training data."""

# Shape suffixes in this file: N episodes, F frames of a stack, H height, W width, C channels.

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lafp import storage
from lafp.config import ConfigError
from lafp.data.windows import stack_frames
from lafp.export import read_card
from lafp.models.action_decoder import ActionDecoder, load_action_decoder
from lafp.policies.base import Policy, load_policy
from lafp.types import PolicyState


class Agent:
    """Controls one episode, or many side by side.

        agent = Agent.load("runs/demo")
        agent.reset()
        action = agent.act(camera.read())  # every 1 / agent.policy.obs.fps seconds

    It keeps each episode's frame stack and the policy's state. ``reset`` begins new episodes.
    """

    def __init__(self, policy: Policy, action_decoder: ActionDecoder) -> None:
        self.policy, self.action_decoder = policy, action_decoder
        self._device = next(policy.parameters()).device
        self.reset()

    @classmethod
    def load(
        cls,
        run_dir: str,
        *,
        policy: str | None = None,
        decoder: str | None = None,
        device: torch.device | str = "cpu",
        noise: str | None = None,
        noise_hold_steps: int | None = None,
        num_solver_steps: int | None = None,
    ) -> Self:
        """Loads the agent of a finished run.

        Args:
            run_dir: The run's folder, local or S3.
            policy: Which policy, a folder of ``policy/``; by default the decoder's own.
            decoder: Which action decoder, a folder of ``decoder/``; needed where a run has several
                for the policy.
            device: Where it shall run.
            noise: Instead of the trained policy's ``noise``; latent_flow only.
            noise_hold_steps: Instead of the trained policy's, for noise ``held``.
            num_solver_steps: Instead of the trained policy's; latent_flow only.

        Raises:
            ConfigError: A model is missing or of another version, the decoder was trained on
                another policy, or it is not clear which decoder is meant.
        """
        decoder = decoder or _only_decoder(run_dir, policy)
        action_decoder, specs = load_action_decoder(
            storage.join(run_dir, "decoder", decoder), device
        )
        policy_uri = storage.join(run_dir, "policy", policy or specs["policy"])
        if read_card(policy_uri, "policy")["weights_sha256"] != specs["policy_sha256"]:
            raise ConfigError(
                f"The action decoder '{decoder}' was trained on the latent actions of another "
                f"policy than {policy_uri}. Train the decoder again."
            )
        options: dict[str, Any] = {
            "noise": noise,
            "noise_hold_steps": noise_hold_steps,
            "num_solver_steps": num_solver_steps,
        }
        overrides = {key: value for key, value in options.items() if value is not None}
        return cls(load_policy(policy_uri, device, overrides), action_decoder)

    def reset(self, num_episodes: int = 1, seed: int = 0) -> None:
        """Begins new episodes.

        Args:
            num_episodes: How many ``act`` gets at a time.
            seed: Determines the policy's noise, the same on every device.
        """
        if num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1, got {num_episodes}.")
        self.num_episodes = num_episodes
        self._generator = torch.Generator().manual_seed(seed)
        self._stack_NFHWC: Tensor | None = None
        self._state: PolicyState | None = None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Chooses the next action from what the camera sees now.

        Call it once per step of the episode: it remembers earlier frames.

        Args:
            obs: uint8 [H, W, 3], RGB, or [N, H, W, 3] for the N episodes of ``reset``.

        Returns:
            float32 [A] or [N, A] in the environment's units; discrete: int64, scalar or [N].

        Raises:
            ValueError: ``obs`` is not what the policy was trained on.
        """
        is_single = np.ndim(obs) == 3
        frame_NHWC = torch.from_numpy(self._checked(obs)).to(self._device)
        embedding = self.policy.encode(self._observation(frame_NHWC))
        latent_action, self._state = self.policy.act_on(embedding, self._state, self._generator)
        action = self.action_decoder.decode(latent_action, embedding).cpu().numpy()
        return action[0] if is_single else action

    def _checked(self, obs: np.ndarray) -> np.ndarray:
        """The observation as [N, H, W, 3], if it is one that the policy knows."""
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
                f"to {frames.max():g}. Pass the camera's image as it is."
            )
        return np.ascontiguousarray(frames)

    def _observation(self, frame_NHWC: Tensor) -> Tensor:
        """Pushes frames onto the stacks: float [N, 3 F, H, W]. The first frame fills its stack."""
        num_frames = self.policy.obs.frame_stack
        if self._stack_NFHWC is None:
            self._stack_NFHWC = frame_NHWC[:, None].repeat(1, num_frames, 1, 1, 1)
        else:
            self._stack_NFHWC = torch.cat([self._stack_NFHWC[:, 1:], frame_NHWC[:, None]], dim=1)
        episode_N = torch.arange(self.num_episodes)
        return stack_frames(
            self._stack_NFHWC, episode_N, torch.full_like(episode_N, num_frames - 1), num_frames
        )


def _only_decoder(run_dir: str, policy: str | None) -> str:
    """The decoder that a run has for ``policy`` (or at all)."""
    folder = storage.join(run_dir, "decoder")
    cards = (
        [f.uri for f in storage.list_files(folder) if f.uri.endswith("/model.json")]
        if storage.exists(folder)
        else []
    )
    names = []
    for card_uri in cards:
        name = card_uri.split("/")[-2]
        card = read_card(storage.join(folder, name), "decoder")
        if policy in (None, card["specs"]["policy"]):
            names.append(name)
    of_policy = f" for policy '{policy}'" if policy else ""
    if not names:
        raise ConfigError(
            f"No finished action decoder{of_policy} in {folder}. Run ray_jobs.train_decoder first."
        )
    if len(names) > 1:
        raise ConfigError(
            f"{run_dir} has several action decoders{of_policy}. Choose one with decoder=: "
            f"{', '.join(sorted(names))}."
        )
    return names[0]
