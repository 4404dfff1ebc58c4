"""Trains a policy on the true actions of labeled clips: the baseline without latent actions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from lafp.config import ConfigError, choice
from lafp.data.held_out import MAX_VAL_CLIPS, HeldOutClips, check_clip_lengths
from lafp.data.labels import action_spec, labeled_order
from lafp.data.order.demand import ClipDemand
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.windows import cut_windows, vector_inputs
from lafp.losses.action import action_errors
from lafp.models.action_decoder import TrueActions
from lafp.policies import POLICIES
from lafp.policies.base import PolicyConfig
from lafp.seeding import seeded
from lafp.train.config import TrainConfig
from lafp.train.tasks.lam_shards import obs_spec
from lafp.train.tasks.policy import (
    build_policy,
    check_single_steps,
    save_policy,
    with_vectors,
)
from lafp.train.tasks.trained_policy import PolicyInputs, TrainedPolicy
from lafp.types import ClipBatch


@dataclass(frozen=True, kw_only=True)
class TrainBcConfig:
    """Configures behavior cloning from scratch, on the labels alone, without videos and LAM.

    The policy predicts true actions where others predict latent ones, so no action decoder follows.
    The number of updates does not depend on the labeled fraction.
    """

    name: str
    """Folder of the run: ``policy/<name>``."""
    labeled_shards: str | None = None
    """Shard set with actions; the run's own ``shards/labeled`` if null."""
    label_fraction: float = 1.0
    """Share of the training clips whose actions may be seen. They are the same clips as for an
    action decoder with the same ``label_seed``."""
    label_seed: int = 0
    """Determines which clips these are. The subsets of one seed are nested."""
    policy: PolicyConfig = choice(POLICIES)
    window: WindowConfig = field(default_factory=WindowConfig)
    train: TrainConfig

    def __post_init__(self) -> None:
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must be in (0, 1], got {self.label_fraction}.")
        check_single_steps(self.window, self.train)
        if self.policy.chunk_steps != 1 or self.policy.latent_projection.name != "none":
            raise ValueError(
                "policy.chunk_steps must be 1 and policy.latent_projection none: true actions are "
                "few numbers and are cloned one at a time."
            )
        if getattr(self.policy.standardizer, "num_fit_latents", 0):
            raise ValueError(
                f"policy.standardizer.name is {self.policy.standardizer.name}, which is computed "
                "from latent actions before the training, and true actions have their own bounds "
                "already. Set it to std or global."
            )


class BehaviorCloningTask:
    """See ``Task``.

    Args:
        cfg: The job's config.
        labeled_shards: URI of the labeled set.

    Raises:
        ConfigError: The set has no actions, or discrete ones.
    """

    def __init__(self, cfg: TrainBcConfig, labeled_shards: str) -> None:
        self.cfg, self.shards = cfg, labeled_shards
        self.action = action_spec(labeled_shards)
        if self.action.is_discrete:
            raise ConfigError(
                f"The actions of {labeled_shards} are discrete; train_bc clones continuous ones."
            )
        check_clip_lengths(labeled_shards, cfg.window.frame_stack)
        obs = obs_spec(labeled_shards, cfg.window.frame_stack)
        obs = with_vectors(obs, cfg.policy.inputs, labeled_shards)
        policy = build_policy(cfg.policy, obs, self.action.dim, cfg.train.seed)
        self._val_clips = HeldOutClips(labeled_shards, MAX_VAL_CLIPS)
        self.module: nn.Module = TrainedPolicy(policy)

    def prepare(self, device: torch.device) -> None:
        """See ``Task``. Nothing depends on the data."""

    def demands(self) -> Mapping[str, ClipDemand]:
        """See ``Task``."""
        cfg = self.cfg
        order = labeled_order(
            self.shards,
            cfg.label_fraction,
            cfg.label_seed,
            seed=cfg.train.seed,
            pool_shards=cfg.train.ingest.pool_shards,
        )
        clips_per_step = cfg.train.global_batch_size // cfg.window.windows_per_clip
        draws = WindowDraws(window=cfg.window, seed=cfg.train.seed)
        return {"labeled": ClipDemand(order=order, clips_per_step=clips_per_step, draws=draws)}

    @torch.no_grad()
    def inputs(self, clips: Mapping[str, ClipBatch]) -> PolicyInputs:
        """Cuts windows with their true actions, normalized. See ``Task``."""
        assert isinstance(self.module, TrainedPolicy)
        window = cut_windows(clips["labeled"], self.cfg.window, self.cfg.train.seed)
        assert window.true_action is not None  # checked with the set's spec
        return PolicyInputs(
            obs=window.obs,
            latent_action=self.action.normalize(window.true_action),
            vectors=vector_inputs(window, self.module.policy.obs),
        )

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Measures loss and action error on held-out labeled episodes.

        The metrics have the same names as those of an action decoder.
        """
        assert isinstance(module, TrainedPolicy)
        device = next(module.parameters()).device
        policy, decode = module.policy, TrueActions(self.action).decode
        losses, predicted, true = [], [], []
        # Every measurement has the same noise, so that a curve shows the model alone.
        with seeded(0, device):
            for batch in self._val_clips.batches(device):
                inputs = self.inputs({"labeled": batch})
                losses.append(module(inputs).loss)
                embedding = policy.encode(inputs.obs, inputs.vectors)
                predicted.append(decode(policy.chunk_from_embedding(embedding, None)[0], embedding))
                true.append(self.action.denormalize(inputs.latent_action))
        if not losses:
            return {}
        errors = action_errors(torch.cat(predicted), torch.cat(true), self.action)
        deployed = {f"val/{name}_deployed": value for name, value in errors.items()}
        return {"val/loss": float(torch.stack(losses).mean())} | deployed

    def save(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """See ``Task``."""
        assert isinstance(module, TrainedPolicy)
        save_policy(uri, self.cfg.policy, module.policy, metrics, {"action": self.action})
