"""Trains an action decoder on the few labeled clips, seen through a frozen LAM and policy."""

# Shape suffixes in this file: B clips, N windows.

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from lafp import storage
from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.data.held_out import (
    MAX_VAL_CLIPS,
    HeldOutClips,
    check_clip_lengths,
    check_frame_size,
    check_vectors,
)
from lafp.data.labels import action_spec, labeled_order
from lafp.data.order.demand import ClipDemand
from lafp.data.order.window_draws import WindowConfig
from lafp.data.shards.sets import open_shard_set, shards_sha256
from lafp.data.windows import vector_inputs, window_indices, windows_at
from lafp.finished.load import LAM_HEAD, load_policy
from lafp.finished.saved_model import TUNED_POLICY, read_card, save_model
from lafp.flow_matching.solver import StepsTaken
from lafp.lam import Lam, load_lam
from lafp.losses.action import action_errors
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.policies.base import Policy
from lafp.seeding import seeded
from lafp.train.config import TrainConfig
from lafp.train.tasks.policy import save_policy
from lafp.train.tasks.trained_decoder import (
    DecoderInputs,
    FinetuneConfig,
    TrainedDecoder,
    tuned_copy,
)
from lafp.train.transitions import (
    ClipFeatures,
    Transitions,
    anchor_range,
    anchored_latents,
    deployed_latents,
    features_of_clip,
    transitions_at,
    transitions_of_clip,
)
from lafp.types import ClipBatch

MAX_REMEMBERED_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class TrainDecoderConfig:
    """Configures stage 3, which learns to map latent actions to true actions.

    The number of updates does not depend on the labeled fraction.
    """

    name: str
    """Folder of the run: ``decoder/<name>``."""
    labeled_shards: str | None = None
    """Shard set with actions; the run's own ``shards/labeled`` if null."""
    policy: str
    """Name of the run's policy whose latent actions are decoded: ``policy/<policy>``."""
    anchor_time: float | int | tuple[float, float] = (0.0, 1.0)
    """Time at which the policy's solver starts, between noise (0: direct sampling) and the latent
    action of the IDM (1: direct mapping). From a range, a time is drawn for each sample, as in
    LAFP. A cloning policy takes 0 (its own prediction) or 1."""
    anchor_steps: StepsTaken = "remaining"
    """Solver steps from the anchor time on: the `remaining` ones of deployment, `all` steps of
    deployment made shorter, or `one` step. The paper does not say which."""
    label_fraction: float = 1.0
    """Share of the training clips whose actions may be seen."""
    label_seed: int = 0
    """Determines which clips these are. The subsets of one seed are nested."""
    windows_per_clip: int = 8
    """Number of transitions drawn from a clip at each visit."""
    action_decoder: ActionDecoderConfig = field(default_factory=ActionDecoderConfig)
    finetune: FinetuneConfig | None = None
    """Set this ({} takes the defaults) to fine-tune the policy too. The fine-tuned policy is stored
    in the decoder's folder; the one in ``policy/`` stays as it is. null keeps the policy frozen."""
    train: TrainConfig

    def __post_init__(self) -> None:
        if self.name == LAM_HEAD:
            raise ValueError(f"name {LAM_HEAD!r} is taken by the LAM's own action head.")
        low, high = self.anchor_range
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"anchor_time must be in [0, 1], or a range within it, got {self.anchor_time}."
            )
        if self.finetune is not None and low == 1:
            raise ValueError(
                "finetune is set, but with anchor_time 1 the action decoder reads the IDM's latent "
                "actions alone, so nothing would train the policy's head. Lower anchor_time, or "
                "set finetune=null."
            )
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must be in (0, 1], got {self.label_fraction}.")
        check_at_least(self, 1, "windows_per_clip")
        self.train.check_windows(
            "train.global_batch_size", self.train.global_batch_size, self.windows_per_clip
        )

    @property
    def anchor_range(self) -> tuple[float, float]:
        """Lowest and highest anchor time."""
        return anchor_range(self.anchor_time)


class DecoderTask:
    """See ``Task``."""

    def __init__(
        self, cfg: TrainDecoderConfig, labeled_shards: str, policy_uri: str, lam_uri: str
    ) -> None:
        self.cfg, self.shards = cfg, labeled_shards
        self.lam, self.policy = load_lam(lam_uri, "cpu"), load_policy(policy_uri)
        self._policy_sha256, self._lam_sha256 = _policy_of_lam(policy_uri, lam_uri)
        check_frame_size(labeled_shards, self.lam.obs)
        check_vectors(labeled_shards, self.policy.obs)
        check_clip_lengths(labeled_shards, self.policy.obs.frame_stack)
        self.action = action_spec(labeled_shards)
        self._window = WindowConfig(
            frame_stack=self.policy.obs.frame_stack, windows_per_clip=cfg.windows_per_clip
        )
        self._val_clips = HeldOutClips(labeled_shards, MAX_VAL_CLIPS)
        embed_dim, latent_dim = self.policy.embed_dim, self.policy.latent_action_dim
        # Labels are few and visited often. Where the outputs of the frozen models fit into memory,
        # they run only once for each clip.
        num_frames = open_shard_set(labeled_shards).num_frames["train"] * cfg.label_fraction
        self._is_remembering = num_frames * (embed_dim + latent_dim) * 4 <= MAX_REMEMBERED_BYTES
        models = (self._lam_sha256, self._policy_sha256)
        self._source = (*models, shards_sha256(labeled_shards), str(cfg.label_seed))
        # The seed alone decides the weights, whatever was drawn before.
        with seeded(cfg.train.seed):
            action_decoder = ActionDecoder(cfg.action_decoder, self.action, latent_dim, embed_dim)
        tuned = tuned_copy(self.policy, cfg.finetune) if cfg.finetune else None
        self.module: nn.Module = TrainedDecoder(
            action_decoder, cfg.anchor_range, cfg.anchor_steps, tuned
        )
        try:  # before the cluster starts, not at the first step
            nothing = ClipFeatures(*(torch.zeros(1, dim) for dim in (embed_dim, latent_dim, 1)))
            index = torch.zeros(1, dtype=torch.int64)
            self._anchored(nothing.at(index, index, self.policy.cfg.chunk_steps))
        except ValueError as error:
            raise ConfigError(f"anchor_time: {error}") from None

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
        clips_per_step = cfg.train.global_batch_size // cfg.windows_per_clip
        return {"labeled": ClipDemand(order=order, clips_per_step=clips_per_step)}

    @torch.no_grad()
    def inputs(self, clips: Mapping[str, ClipBatch]) -> DecoderInputs:
        """Draws random transitions, and new latent actions of the policy for them. See ``Task``."""
        batch, finetune = clips["labeled"], self.cfg.finetune
        drawn = (self._recalled if self._is_remembering else self._drawn)(batch)
        if finetune is None:
            return DecoderInputs(transitions=drawn, latent_action=self._anchored(drawn))
        if finetune.policy_layers != "all":
            return DecoderInputs(transitions=drawn, latent_action=None)
        clip_N, t_N, k_N = window_indices(batch, self._window, self.cfg.train.seed)
        window = windows_at(batch, clip_N, t_N, k_N, self._window.frame_stack)
        vectors = vector_inputs(window, self.policy.obs)
        return DecoderInputs(transitions=drawn, latent_action=None, obs=window.obs, vectors=vectors)

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Measures the action error on all transitions of held-out labeled episodes.

        ``anchored``: the decoder gets latent actions like those that it is trained on.
        ``deployed``: it gets latent actions that the policy samples without an anchor. They may
        rightly belong to another mode than the demonstrated one. MSE is in the environment's units,
        R^2 over all dimensions in normalized units.
        """
        assert isinstance(module, TrainedDecoder)
        device = next(module.parameters()).device
        batches = list(self._val_clips.batches(device))
        if not batches:
            return {}
        lam, policy = self._frozen(batches[0])
        policy = policy if module.policy is None else module.policy
        held_out = Transitions.cat(
            [
                transitions_of_clip(batch, b, lam, policy)
                for batch in batches
                for b in range(len(batch.num_frames))
            ]
        )
        # Every measurement has the same noise, so that a curve shows the model alone.
        with seeded(0, device):
            latents = {
                "anchored": self._anchored(held_out, policy),
                "deployed": deployed_latents(policy, held_out),
            }
        metrics = {"val/num_transitions": float(len(held_out.true_action))}
        for name, latent_action in latents.items():
            predicted = module.action_decoder.decode(latent_action, held_out.embedding)
            for metric, value in action_errors(
                predicted, held_out.true_action, self.action
            ).items():
                metrics[f"val/{metric}_{name}"] = value
        return metrics

    def save(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """See ``Task``. A policy that was trained too goes into the folder ``policy``."""
        assert isinstance(module, TrainedDecoder)
        policy_sha256 = self._policy_sha256
        if module.policy is not None:
            tuned_uri = storage.join(uri, TUNED_POLICY)
            specs = {"lam_sha256": self._lam_sha256}
            save_policy(tuned_uri, self.policy.cfg, module.policy, metrics, specs)
            policy_sha256 = read_card(tuned_uri, "policy")["weights_sha256"]
        save_model(
            uri,
            kind="decoder",
            config=self.cfg.action_decoder,
            specs={
                "action": self.action,
                "latent_action_dim": self.policy.latent_action_dim,
                "embed_dim": self.policy.embed_dim,
                "policy": self.cfg.policy,
                "policy_sha256": policy_sha256,
                "is_policy_tuned": module.policy is not None,
            },
            module=module.action_decoder,
            metrics=metrics,
        )

    def _anchored(self, transitions: Transitions, policy: Policy | None = None) -> Tensor:
        cfg = self.cfg
        return anchored_latents(
            policy or self.policy, transitions, cfg.anchor_range, cfg.anchor_steps
        )

    def _drawn(self, batch: ClipBatch) -> Transitions:
        clip_N, t_N, _ = window_indices(batch, self._window, self.cfg.train.seed)
        position_N = self._positions(t_N - (self._window.frame_stack - 1))
        return transitions_at(batch, clip_N, t_N, position_N, *self._frozen(batch))

    def _recalled(self, batch: ClipBatch) -> Transitions:
        """Does the same as ``_drawn``, but runs the frozen models only once for each clip."""
        _, t_N, _ = window_indices(batch, self._window, self.cfg.train.seed)
        rows_N = t_N - (self._window.frame_stack - 1)
        position_N = self._positions(rows_N)
        device, num_clips = batch.frames.device, len(batch.num_frames)
        rows, positions = (x.to(device).view(num_clips, -1) for x in (rows_N, position_N))
        parts = []
        remembered = _remembered(self._source, str(device))
        for b, key in enumerate(batch.clip_key.tolist()):
            if key not in remembered:
                remembered[key] = features_of_clip(batch, b, *self._frozen(batch))
            parts.append(remembered[key].at(rows[b], positions[b], self.policy.cfg.chunk_steps))
        return Transitions.cat(parts)

    def _positions(self, rows_N: Tensor) -> Tensor:
        """Draws the position of each transition in its chunk, among the executed positions.

        Args:
            rows_N: Number of transitions before it in the clip, because no chunk begins before the
                clip.
        """
        execute_steps = self.policy.cfg.execute_steps
        if execute_steps == 1:
            return torch.zeros_like(rows_N)
        return torch.minimum(torch.randint(execute_steps, rows_N.shape), rows_N)

    def _frozen(self, batch: ClipBatch) -> tuple[Lam, Policy]:
        """Returns the frozen models, on the device of the clips."""
        if self.lam.device != batch.frames.device:
            self.lam.to(batch.frames.device)
            self.policy.to(batch.frames.device)
        return self.lam, self.policy


@lru_cache(maxsize=1)
def _remembered(source: tuple[str, ...], device: str) -> dict[int, ClipFeatures]:
    """Returns the outputs of frozen models that this process remembers, by clip.

    The trainings of a sweep that differ in the action decoder alone follow each other in one
    process, so the frozen models run once for all of them. About ``MAX_REMEMBERED_BYTES`` are kept
    at most: those of one pair of models, until a decoder of other models is trained.

    Args:
        source: Checksums of the models and of the shard set, and the choice of labeled clips.
        device: The device of the outputs.
    """
    return {}


def _policy_of_lam(policy_uri: str, lam_uri: str) -> tuple[str, str]:
    """Checks that the policy was trained on the LAM's latent actions. Returns both checksums."""
    policy, lam = read_card(policy_uri, "policy"), read_card(lam_uri, "lam")
    if policy["specs"].get("lam_sha256") != lam["weights_sha256"]:
        raise ConfigError(
            f"The policy at {policy_uri} was trained on another latent action model than "
            f"{lam_uri}. Train the policy again, or name its own LAM."
        )
    return policy["weights_sha256"], lam["weights_sha256"]
