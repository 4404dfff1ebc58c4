"""An agent of lafp as a policy of LeRobot."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_IMAGE, OBS_STATE
from torch import Tensor

from lafp import Agent, storage
from lafp.data.randomness import derive_seed
from lafp.finished.hub import local_copy
from lafp.finished.hub_card import README, published
from lafp.runs.run_dir import RunDir
from lerobot_policy_lafp.configuration_lafp import NO_TRAINING, LafpConfig
from lerobot_policy_lafp.pictures import to_agent
from lerobot_policy_lafp.processor_lafp import make_lafp_pre_post_processors

RUN = "run"
"""Folder of the models below a folder that ``save_pretrained`` wrote."""


class LafpPolicy(PreTrainedPolicy):
    """Acts with a finished agent. It cannot be trained here.

    Args:
        config: Names the run.
        **_: What LeRobot knows about a dataset; an agent has its own units.

    Raises:
        ValueError: There is no run, its actions are discrete, or it reads a condition, which
            LeRobot does not have. ``lafp.config.ConfigError`` as for ``lafp.Agent.load``.
    """

    config_class = LafpConfig
    name = "lafp"

    def __init__(self, config: LafpConfig, **_: Any) -> None:
        super().__init__(config)
        if config.run is None:
            raise ValueError(
                "No agent is named. Give --policy.run=RUN, the folder of a finished run of lafp, "
                "or --policy.path=FOLDER, which LafpPolicy.save_pretrained wrote."
            )
        self.agent = Agent.load(
            config.run,
            policy=config.policy,
            action_decoder=config.action_decoder,
            device=config.device or "cpu",
        )
        if self.agent.action.is_discrete:
            raise ValueError(
                f"The agent of {config.run} has discrete actions; LeRobot's are continuous. "
                "Measure it with lafp evaluate."
            )
        if "condition" in self.agent.reads:
            raise ValueError(f"The agent of {config.run} reads a condition: LeRobot has none.")
        logging.info("This agent acts %g times per second: env.fps must agree.", self.agent.fps)
        # Its parameters become those of this module.
        self.agent_step = self.agent.step
        self._num_resets = 0
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Loads what ``save_pretrained`` wrote, from a folder or from the Hugging Face Hub."""
        source = str(pretrained_name_or_path)
        if config is None:
            config = PreTrainedConfig.from_pretrained(source, revision=revision, **kwargs)
        if not isinstance(config, LafpConfig):
            raise ValueError(f"{source} holds a policy of type {config.type}, not lafp.")
        if config.run is None:
            at = f"@{revision}" if revision else ""
            is_folder = os.path.isdir(source)
            config.run = os.path.join(source, RUN) if is_folder else f"hf://{source}{at}/{RUN}"
        return cls(config).eval()

    def _save_pretrained(self, save_directory: Path, **_: Any) -> None:
        """Writes ``config.json``, both processors, and the run's finished models below ``run/``."""
        assert self.config.run is not None
        run = RunDir(local_copy(storage.uri_of(self.config.run)))
        found = published(run, "hf://USER/NAME")
        for name, source in found.files.items():
            target = save_directory / RUN / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with storage.local_file(source) as path:
                shutil.copyfile(path, target)
        for name, text in found.texts.items():
            if name != README:  # its commands are for a whole repository
                (save_directory / RUN / name).write_text(text)
        here, self.config.run = self.config.run, None
        try:
            self.config._save_pretrained(save_directory)
        finally:
            self.config.run = here
        for processor in make_lafp_pre_post_processors(self.config):
            processor.save_pretrained(save_directory)

    def reset(self) -> None:
        """Begins new episodes. Their number is that of the next observations."""
        self._is_reset = True

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Returns the next actions, float32 [N, A], in the units that the agent was trained on.

        Args:
            batch: Observations of LeRobot: a picture [N, 3, H, W] and, if the agent reads it,
                ``observation.state`` [N, S].

        Raises:
            ValueError: The picture or the state is missing, or there are several pictures.
        """
        key = self._camera_of(batch)
        spec = self.agent.obs
        seen = to_agent(batch[key], spec.height_px, spec.width_px, self.config.fit)
        if self._is_reset:
            seed = derive_seed(self.config.seed, "lerobot", self._num_resets)
            self.agent.reset(len(seen), seed)
            self._num_resets, self._is_reset = self._num_resets + 1, False
        obs: dict[str, np.ndarray] = {"image": seen.cpu().numpy()}
        if "state" in self.agent.reads:
            if OBS_STATE not in batch:
                raise ValueError(f"This agent reads the state, and there is no {OBS_STATE} here.")
            obs["state"] = batch[OBS_STATE].cpu().numpy()
        return torch.from_numpy(self.agent.act(obs)).to(batch[key].device)

    def _camera_of(self, batch: dict[str, Tensor]) -> str:
        pictures = [key for key in batch if key.startswith(OBS_IMAGE)]
        if self.config.camera in pictures:
            return self.config.camera
        if self.config.camera is None and len(pictures) == 1:
            return pictures[0]
        raise ValueError(
            f"The agent reads one picture. Set --policy.camera to one of "
            f"{', '.join(sorted(pictures)) or 'none (there is no picture)'}; got "
            f"{self.config.camera}."
        )

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Returns chunks of one action, [N, 1, A]: an agent looks at every frame."""
        return self.select_action(batch)[:, None]

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        """Raises NotImplementedError: see ``NO_TRAINING``."""
        raise NotImplementedError(NO_TRAINING)

    def get_optim_params(self) -> NoReturn:
        """Raises NotImplementedError: see ``NO_TRAINING``."""
        raise NotImplementedError(NO_TRAINING)
