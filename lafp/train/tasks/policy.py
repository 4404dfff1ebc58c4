"""Trains a policy to predict latent actions of a frozen LAM from observations, without labels."""

# Shape suffixes in this file: B windows, Z latent action.

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config import Choice, ConfigError, choice
from lafp.data.held_out import MAX_VAL_CLIPS, HeldOutClips, check_clip_lengths, check_frame_size
from lafp.data.labels import vector_dims
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.shards.sets import shards_sha256
from lafp.data.stored_latents import clips_without_latents, open_latent_set
from lafp.data.windows import following_steps, vector_inputs, window_indices, windows_at
from lafp.finished.saved_model import read_card, save_model
from lafp.lam import load_lam
from lafp.losses.masked import masked_mean
from lafp.models.latent_projection import LatentProjection
from lafp.policies import POLICIES
from lafp.policies.base import InputsConfig, Policy, PolicyConfig
from lafp.seeding import seeded
from lafp.train.config import TrainConfig
from lafp.train.first_batches import first_batches
from lafp.train.tasks.trained_policy import PolicyInputs, TrainedPolicy
from lafp.types import ClipBatch, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class TrainPolicyConfig:
    """Configures stage 2, which trains a policy over the latent actions of a finished LAM."""

    shards: str | None = None
    """Shard set of videos; the run's own ``shards/videos`` if null."""
    lam: str | None = None
    """Folder of a finished LAM; the run's own ``lam`` if null."""
    latents: str | None = None
    """Latent actions that `label_latents` stored: a name in the run's ``latents/``, or a folder or
    s3:// URI. null runs the LAM on every window."""
    policy: PolicyConfig = choice(POLICIES)
    window: WindowConfig = field(default_factory=WindowConfig)
    """``frame_stack`` must equal the LAM's, and ``max_offset_steps`` must be 1."""
    train: TrainConfig

    def __post_init__(self) -> None:
        check_single_steps(self.window, self.train)


def check_single_steps(window: WindowConfig, train: TrainConfig) -> None:
    """Checks that windows span single steps, and that each optimizer step takes whole clips.

    Raises:
        ValueError: They do not.
    """
    if window.max_offset_steps != 1:
        raise ValueError(
            "window.max_offset_steps must be 1, got "
            f"{window.max_offset_steps}: a policy acts one step at a time."
        )
    train.check_windows("train.global_batch_size", train.global_batch_size, window.windows_per_clip)


def build_policy(cfg: Choice, obs: ObsSpec, latent_action_dim: int, seed: int) -> Policy:
    """Builds a policy. Policies with one seed and one kind of encoder begin with equal encoders.

    Raises:
        ConfigError: The settings do not fit together.
    """
    with seeded(seed):
        try:
            policy = POLICIES.build(cfg, obs, latent_action_dim)
        except ValueError as error:
            raise ConfigError(f"policy: {error}") from None
    return policy


def with_vectors(obs: ObsSpec, inputs: InputsConfig, shards: str) -> ObsSpec:
    """Adds to ``obs`` the vectors that a policy is to read beside the frames.

    Raises:
        ConfigError: The clips do not have these vectors.
    """
    wanted = [name for name, is_read in vars(inputs).items() if is_read]
    dims = vector_dims(shards) if wanted else {}
    for name in wanted:
        if not dims[name]:
            raise ConfigError(
                f"policy.inputs.{name} is true, but the clips of {shards} have no {name}. "
                f"Set shards to a labeled shard set whose source has it, or leave the {name} out."
            )
    return replace(obs, **{f"{name}_dim": dims[name] for name in wanted})


def check_latents(latents: str, lam_uri: str, shards: str) -> None:
    """Raises ConfigError if another LAM made a latent set, or made it for other shards."""
    spec, lam_sha256 = open_latent_set(latents), read_card(lam_uri, "lam")["weights_sha256"]
    if spec.lam_sha256 != lam_sha256:
        raise ConfigError(
            f"{latents} holds latent actions of another LAM (weights {spec.lam_sha256[:12]}) than "
            f"{lam_uri} ({lam_sha256[:12]}). Label the shards with this LAM, under another name."
        )
    if spec.shards_sha256 != (found := shards_sha256(shards)):
        raise ConfigError(
            f"{latents} holds latent actions of another shard set ({spec.shards_sha256[:12]}) than "
            f"{shards} ({found[:12]}). Label these shards, under another name."
        )


def save_policy(
    uri: str, cfg: object, policy: Policy, metrics: dict[str, float], specs: dict[str, Any]
) -> None:
    """Writes a trained policy.

    Args:
        uri: The stage's folder.
        cfg: The policy's config.
        policy: The policy.
        metrics: Metrics for the policy's card.
        specs: Entries of the card about the models and actions that the policy belongs to.
    """
    own = {"obs": policy.obs, "latent_action_dim": policy.latent_action_dim}
    save_model(uri, kind="policy", config=cfg, specs=own | specs, module=policy, metrics=metrics)


class PolicyTask:
    """See ``Task``.

    Args:
        cfg: The job's config.
        shards: URI of the videos' shard set.
        lam_uri: Folder of the LAM.
        latents: URI of a latent set of this LAM and these shards; None runs the LAM.

    Raises:
        ConfigError: Shards, LAM, latents and config do not belong together.
    """

    def __init__(
        self, cfg: TrainPolicyConfig, shards: str, lam_uri: str, latents: str | None = None
    ) -> None:
        self.cfg, self.shards, self.latents = cfg, shards, latents
        # The driver builds the task too, to check it, and may have no GPU.
        # ``_infer_latent_action`` moves the LAM.
        self.lam = load_lam(lam_uri, "cpu")
        self._lam_sha256 = read_card(lam_uri, "lam")["weights_sha256"]
        check_frame_size(shards, self.lam.obs)
        if cfg.window.frame_stack != self.lam.obs.frame_stack:
            raise ConfigError(
                f"window.frame_stack is {cfg.window.frame_stack}, the LAM at {lam_uri} was trained "
                f"with {self.lam.obs.frame_stack}. Use the same."
            )
        check_clip_lengths(shards, cfg.window.frame_stack, cfg.policy.chunk_steps)
        if latents is not None:
            check_latents(latents, lam_uri, shards)
        self._val_clips = HeldOutClips(shards, MAX_VAL_CLIPS, latents)
        obs = with_vectors(self.lam.obs, cfg.policy.inputs, shards)
        policy = build_policy(cfg.policy, obs, self.lam.latent_action_dim, cfg.train.seed)
        self.module: nn.Module = TrainedPolicy(policy)

    @torch.no_grad()
    def prepare(self, device: torch.device) -> None:
        """Fits projection and standardizer to latent actions of the first steps. See ``Task``."""
        assert isinstance(self.module, TrainedPolicy)
        policy, train = self.module.policy, self.cfg.train
        projection, standardizer = policy.projection, policy.standardizer
        num_latents = max(projection.num_fit_latents, standardizer.num_fit_latents)
        latents = []
        for clips in first_batches(self.demands(), train, num_latents, device):
            latent_action = self.inputs(clips).latent_action
            # The first step of a chunk always exists. Later ones may be repeats beyond the end of a
            # clip, which would count twice.
            latents.append(latent_action if latent_action.ndim == 2 else latent_action[:, 0])
        if latents:
            latent_action = torch.cat(latents)
            projection.fit(latent_action)
            standardizer.fit(projection.project(latent_action))

    def demands(self) -> Mapping[str, ClipDemand]:
        """See ``Task``."""
        train = self.cfg.train
        order = ClipOrder(
            shard_set=self.shards,
            split="train",
            seed=train.seed,
            pool_shards=train.ingest.pool_shards,
            skipped_clips=clips_without_latents(self.latents) if self.latents else frozenset(),
        )
        clips_per_step = train.global_batch_size // self.cfg.window.windows_per_clip
        # With stored latents, the frames of the later steps of a chunk are not needed.
        labeled_here = self.cfg.policy.chunk_steps if self.latents is None else 1
        draws = WindowDraws(window=self.cfg.window, seed=train.seed, chunk_steps=labeled_here)
        return {
            "videos": ClipDemand(
                order=order, clips_per_step=clips_per_step, latents=self.latents, draws=draws
            )
        }

    @torch.no_grad()
    def inputs(self, clips: Mapping[str, ClipBatch]) -> PolicyInputs:
        """Cuts windows, with latent actions from storage or the frozen LAM. See ``Task``."""
        assert isinstance(self.module, TrainedPolicy)
        batch, cfg = clips["videos"], self.cfg
        clip_N, t_N, k_N = window_indices(batch, cfg.window, cfg.train.seed)
        window = windows_at(batch, clip_N, t_N, k_N, cfg.window.frame_stack)
        vectors = vector_inputs(window, self.module.policy.obs)
        latents = [self._infer_latent_action(window)]
        if cfg.policy.chunk_steps == 1:
            return PolicyInputs(obs=window.obs, latent_action=latents[0], vectors=vectors)
        at_NH, has_step_NH = following_steps(batch, clip_N, t_N, cfg.policy.chunk_steps)
        for at_N in at_NH.unbind(1)[1:]:
            if batch.latent_action is not None:
                latents.append(batch.latent_action[clip_N, at_N])
            else:
                later = windows_at(batch, clip_N, at_N, k_N, cfg.window.frame_stack)
                latents.append(self._infer_latent_action(later))
        return PolicyInputs(
            obs=window.obs,
            latent_action=torch.stack(latents, dim=1),
            has_step=has_step_NH.to(window.obs.device, non_blocking=True),
            vectors=vectors,
        )

    def _infer_latent_action(self, window: Window) -> Tensor:
        if window.latent_action is not None:
            return window.latent_action
        if self.lam.device != window.obs.device:
            self.lam.to(window.obs.device)
        return self.lam.infer_latent_action(window.obs, window.next_obs).float()

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Measures the loss, and the error of predicted latent actions, on clips of the val split.

        ``val/latent_mse`` is in units of the latent actions' variance: 1 is no better than their
        mean. A policy that keeps several modes has a higher error than one that averages them. The
        error covers only components that the projection keeps; ``val/projection_explained`` is
        their share of the latent actions' variance.
        """
        assert isinstance(module, TrainedPolicy)
        device = next(module.parameters()).device
        projection = module.policy.projection
        losses, errors, dropped = [], [], []
        # Every measurement has the same noise, so that a curve shows the model alone.
        with seeded(0, device):
            for batch in self._val_clips.batches(device):
                inputs = self.inputs({"videos": batch})
                losses.append(module(inputs).loss)
                errors.append(self._latent_mse(module.policy, inputs))
                dropped.append(_dropped_variance(projection, inputs.latent_action))
        if not losses:
            return {}
        metrics = {
            "val/loss": float(torch.stack(losses).mean()),
            "val/latent_mse": float(torch.stack(errors).mean()),
        }
        if projection.num_fit_latents:
            metrics["val/projection_explained"] = 1 - float(torch.stack(dropped).nanmean())
        return metrics

    def save(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """See ``Task``."""
        assert isinstance(module, TrainedPolicy)
        specs = {"lam_sha256": self._lam_sha256}
        save_policy(uri, self.cfg.policy, module.policy, metrics, specs)

    def _latent_mse(self, policy: Policy, inputs: PolicyInputs) -> Tensor:
        chunk, _ = policy.chunk_from_embedding(policy.encode(inputs.obs, inputs.vectors), None)
        error = policy.standardize(chunk) - policy.standardize(inputs.latent_action)
        is_present = None
        if inputs.has_step is not None:
            is_present = inputs.has_step.repeat_interleave(policy.projection.dim, dim=1)
        return masked_mean(error.square(), is_present)


def _dropped_variance(projection: LatentProjection, latent_action_BZ: Tensor) -> Tensor:
    """Returns the share of a batch's variance that the projection drops; NaN without variance."""
    restored_BZ = projection.unproject(projection.project(latent_action_BZ))
    total = latent_action_BZ.var(0, correction=0).mean()
    dropped = F.mse_loss(restored_BZ, latent_action_BZ) / total
    return torch.where(total > 0, dropped, torch.nan)
