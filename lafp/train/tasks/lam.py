"""Trains a latent action model on videos and, if there are any, labeled clips."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from lafp import storage
from lafp.config import Choice, ConfigError, choice
from lafp.config.ranges import check_at_least
from lafp.data.held_out import MAX_VAL_CLIPS, HeldOutClips, check_clip_lengths
from lafp.data.labels import action_spec, count_labels, labeled_order
from lafp.data.masks import keep_masks
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.mixture import MixedOrder
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.randomness import derive_seed
from lafp.data.shards.sets import open_shard_set
from lafp.data.windows import cut_windows
from lafp.finished.model_card import FILE as MODEL_CARD
from lafp.finished.model_card import TrainedOn, lam_card
from lafp.finished.saved_model import ACTION_HEAD, read_card, save_model
from lafp.lam import initialize_from
from lafp.losses.forward_dynamics import explained_change
from lafp.objectives import OBJECTIVES
from lafp.objectives.base import Objective
from lafp.runs.wording import label_words
from lafp.seeding import seeded
from lafp.train.config import TrainConfig
from lafp.train.first_batches import first_batches
from lafp.train.tasks.lam_sections import DataConfig, ProbeConfig, SupervisionConfig
from lafp.train.tasks.lam_shards import check_masks, check_optical_flow, check_same_frames, obs_spec
from lafp.train.tasks.trained_lam import LamInputs, TrainedLam, about_what_trains
from lafp.types import ClipBatch, Window

NUM_FIT_PAIRS = 1024
"""Number of windows, over all workers, on which ``prepare`` fits a model."""


@dataclass(frozen=True, kw_only=True)
class TrainLamConfig:
    """Configures stage 1, which learns a latent action model from videos without actions."""

    shards: str | None = None
    """Shard set of videos; the run's own ``shards/videos`` if null."""
    data: tuple[DataConfig, ...] = ()
    """Replaces ``shards`` by several sets (sources) with weights, or by one set whose clips have
    weights. All sets must have the same frame size and rate."""
    labeled_shards: str | None = None
    """Shard set with actions, for supervision and for the probe; the run's own
    ``shards/labeled``, if there is one, when null."""
    init_from: str | None = None
    """Folder of a finished LAM from whose weights training starts, e.g. to adapt a LAM to one's own
    videos. Optimizer, schedule and the head of the supervision start anew."""
    objective: Choice = choice(OBJECTIVES)
    window: WindowConfig = field(default_factory=WindowConfig)
    fdm_weight: float = 1.0
    """Weight of the objective's own loss beside that of the supervision. 0 trains on labels alone:
    the control of a supervised LAM, with the same network, augmentation and input."""
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    train: TrainConfig

    def __post_init__(self) -> None:
        if self.data and self.shards is not None:
            raise ValueError(
                "Set shards or data, not both: a list of one is `data: [{shards: X}]`."
            )
        if len({item.shards for item in self.data}) < len(self.data):
            raise ValueError("data lists a shard set twice. Give it the sum of the weights.")
        check_at_least(self, 0, "fdm_weight")
        if self.fdm_weight == 0 and self.supervision.weight == 0:
            raise ValueError(
                "fdm_weight and supervision.weight are both 0, so nothing would be trained. For a "
                "model of labels alone, set supervision.weight=1."
            )
        num_windows = self.window.windows_per_clip
        self.train.check_windows(
            "train.global_batch_size", self.train.global_batch_size, num_windows
        )
        if self.supervision.weight > 0:
            batch_size = self.supervision.batch_size
            self.train.check_windows("supervision.batch_size", batch_size, num_windows)


class Probe(Protocol):
    """Measures a latent action model while it trains."""

    def measure(self, objective: Objective) -> dict[str, float]:
        """Returns metrics ``probe/...``. The objective keeps its mode (training or eval)."""


class LamTask:
    """See ``Task``.

    Args:
        cfg: The job's config.
        shards: URI of the videos' shard set, or URIs in the order of ``cfg.data``. Image size and
            frame rate come from the first.
        labeled_shards: URI of the labeled set; None trains without supervision and probe.
        init_from: URI of a finished LAM to start from.
        make_probe: Labeled shards, config, seed and the ids of the clips whose actions supervise ->
            the ``Probe`` that measures the LAM while it trains (``evaluate.LamProbe``). None trains
            without a probe.

    Raises:
        ConfigError: A shard set is missing, or does not fit the config or the other sets.
    """

    def __init__(
        self,
        cfg: TrainLamConfig,
        shards: str | tuple[str, ...],
        labeled_shards: str | None,
        init_from: str | None = None,
        make_probe: Callable[[str, ProbeConfig, int, frozenset[str]], Probe] | None = None,
    ) -> None:
        self.cfg, self.init_from = cfg, init_from
        self.shard_sets = (shards,) if isinstance(shards, str) else shards
        self.obs = obs_spec(self.shard_sets[0], cfg.window.frame_stack)
        for other in self.shard_sets[1:]:
            check_same_frames(other, self.obs, self.shard_sets[0])
        for uri in (*self.shard_sets, *([labeled_shards] if labeled_shards else [])):
            check_clip_lengths(uri, cfg.window.frame_stack)
        self.is_supervised = cfg.supervision.weight > 0
        if labeled_shards is None and self.is_supervised:
            raise ConfigError(
                f"supervision.weight is {cfg.supervision.weight}, but there are no labeled shards. "
                "Set labeled_shards, or supervision.weight=0."
            )
        if labeled_shards is not None:
            action_spec(labeled_shards)  # a clear error when there are no actions
            check_same_frames(labeled_shards, self.obs, self.shard_sets[0])
        self.labeled_shards = labeled_shards
        # Several sets share the clips, so that a mixture takes no longer to measure.
        max_val_clips = -(-MAX_VAL_CLIPS // len(self.shard_sets))
        self._val_clips = [HeldOutClips(uri, max_val_clips) for uri in self.shard_sets]
        self._make_probe = make_probe
        self._probe: Probe | None = None
        self.module: nn.Module = self._build(init_from)

    @torch.no_grad()
    def prepare(self, device: torch.device) -> None:
        """Fits the model's scales to the frame changes in the first batches. See ``Task``."""
        self._objective(self.module).fit_scales(self._first_windows(device))

    def _first_windows(self, device: torch.device) -> Iterator[Window]:
        demands, train = {"train": self.demands()["train"]}, self.cfg.train
        for clips in first_batches(demands, train, NUM_FIT_PAIRS, device):
            yield self._windows(clips["train"])

    def demands(self) -> Mapping[str, ClipDemand]:
        """Returns the streams ``train`` (the videos) and ``labeled`` (episodes with actions).

        ``labeled`` exists with supervision only, and holds the episodes whose actions may be seen.
        """
        cfg = self.cfg
        demands = {"train": self._demand(self._order(), cfg.train.global_batch_size, cfg.window)}
        if self.is_supervised and self.labeled_shards is not None:
            supervision = cfg.supervision
            order = labeled_order(
                self.labeled_shards,
                supervision.label_fraction,
                supervision.label_seed,
                seed=cfg.train.seed,
                pool_shards=cfg.train.ingest.pool_shards,
            )
            demands["labeled"] = self._demand(order, supervision.batch_size, cfg.window)
        return demands

    @torch.no_grad()
    def inputs(self, clips: Mapping[str, ClipBatch]) -> LamInputs:
        """Cuts random windows and augments them as the objective requires. See ``Task``."""
        objective, seed = self._objective(self.module), self.cfg.train.seed
        labeled = None
        if "labeled" in clips:
            labeled = cut_windows(clips["labeled"], self.cfg.window, seed)
            labeled = objective.augment(labeled)
        window = objective.augment(self._windows(clips["train"]))
        return LamInputs(window=window, labeled=labeled)

    def _windows(self, clips: ClipBatch) -> Window:
        """Cuts training windows. Only the configured share of the clips keeps its masks."""
        seed = self.cfg.train.seed
        if (mask := self._objective(self.module).mask) is not None:
            clips = keep_masks(clips, mask.fraction, seed)
        return cut_windows(clips, self.cfg.window, seed)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Measures losses on the videos' val split (``val/...``) and the probe (``probe/...``)."""
        objective = self._objective(module)
        metrics = self._val_metrics(objective)
        if self.labeled_shards is not None and self._make_probe is not None:
            # Made when it is needed, because only rank 0 evaluates and others need not read labels.
            if self._probe is None:
                cfg = self.cfg
                supervised = cfg.supervision.clips_of(self.labeled_shards)
                self._probe = self._make_probe(
                    self.labeled_shards, cfg.probe, cfg.train.seed, supervised
                )
            metrics |= self._probe.measure(objective)
        return metrics

    def save(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """Writes the objective with a card, and the action head if there is one. See ``Task``."""
        objective = self._objective(module)
        card = lam_card(
            self.cfg,
            obs=self.obs,
            num_parameters=sum(p.numel() for p in objective.parameters()),
            data=list(self._trained_on()),
            init_from=self.init_from,
            metrics=metrics,
        )
        storage.write_text(storage.join(uri, MODEL_CARD), card)
        save_model(
            uri,
            kind="lam",
            config=self.cfg.objective,
            specs={"obs": self.obs},
            module=objective,
            metrics=metrics,
        )
        assert isinstance(module, TrainedLam)
        if (head := module.action_head) is not None:
            save_model(
                storage.join(uri, ACTION_HEAD),
                kind="action_head",
                config=head.cfg,
                specs={
                    "action": head.action,
                    "latent_action_dim": objective.latent_action_dim,
                    "lam_sha256": read_card(uri, "lam")["weights_sha256"],
                },
                module=head,
                metrics={},
            )

    def _trained_on(self) -> Iterator[TrainedOn]:
        data = self.cfg.data or (DataConfig(),)
        for uri, item in zip(self.shard_sets, data, strict=True):
            use = f"frames, weight {item.weight:g}" if len(data) > 1 else "frames"
            yield TrainedOn(uri=uri, spec=open_shard_set(uri), use=use)
        if self.labeled_shards is not None:
            use = "the probe only"
            if self.is_supervised:
                supervision = self.cfg.supervision
                labels = count_labels(
                    self.labeled_shards,
                    supervision.label_fraction,
                    supervision.label_seed,
                    self.cfg.window.frame_stack,
                )
                use = f"actions of {label_words(*labels)}, and the probe"
            yield TrainedOn(
                uri=self.labeled_shards, spec=open_shard_set(self.labeled_shards), use=use
            )

    def _build(self, init_from: str | None) -> TrainedLam:
        action = None
        if self.is_supervised and self.labeled_shards is not None:
            action = action_spec(self.labeled_shards)
        objective_class = OBJECTIVES.get(self.cfg.objective.name)
        with seeded(derive_seed(self.cfg.train.seed, "lam")):
            try:
                objective = objective_class(self.cfg.objective, self.obs)
            except ValueError as error:
                raise ConfigError(f"objective: {error}") from None
            for uri in self.shard_sets:
                check_optical_flow(uri, objective)
            check_masks(self.shard_sets, objective, self.cfg.train.seed)
            if init_from is not None:
                initialize_from(objective, init_from)
            return TrainedLam(objective, self.cfg.supervision, action, self.cfg.fdm_weight)

    def _order(self) -> ClipOrder | MixedOrder:
        data = self.cfg.data or (DataConfig(),)
        parts = tuple(
            self._order_of(uri, motion_power=item.motion_power)
            for uri, item in zip(self.shard_sets, data, strict=True)
        )
        if len(parts) == 1:
            return parts[0]
        weights = tuple(item.weight for item in data)
        return MixedOrder(parts=parts, weights=weights, seed=self.cfg.train.seed)

    def _order_of(self, shards: str, **selection: Any) -> ClipOrder:
        train = self.cfg.train
        return ClipOrder(
            shard_set=shards,
            split="train",
            seed=train.seed,
            pool_shards=train.ingest.pool_shards,
            **selection,
        )

    def _demand(
        self, order: ClipOrder | MixedOrder, batch_size: int, window: WindowConfig
    ) -> ClipDemand:
        return ClipDemand(
            order=order,
            clips_per_step=batch_size // window.windows_per_clip,
            draws=WindowDraws(window=window, seed=self.cfg.train.seed),
        )

    @torch.no_grad()
    def _val_metrics(self, objective: Objective) -> dict[str, float]:
        device = next(objective.parameters()).device
        was_training = objective.training
        objective.eval()
        outputs = []
        # Every measurement has the same noise, so that a curve shows the model alone.
        with seeded(0, device):
            batches = (held_out.batches(device) for held_out in self._val_clips)
            for batch in itertools.chain.from_iterable(batches):
                # Not the run's seed, so that all runs are measured on the same windows.
                out = objective(cut_windows(batch, self.cfg.window, seed=0))
                metrics_of_batch = about_what_trains(out.metrics, self.cfg.fdm_weight)
                outputs.append({"loss": out.loss, **metrics_of_batch})
        objective.train(was_training)
        metrics = {}
        for name in outputs[0] if outputs else {}:
            of_batches = torch.stack([out[name] for out in outputs])
            # Some metrics are undefined (NaN) for a batch of one window, and the mean leaves it
            # out. A loss is never undefined, so a loss that is NaN must show in the mean.
            mean = of_batches.mean() if name == "loss" else of_batches.nanmean()
            metrics[f"val/{name}"] = float(mean)
        return metrics | explained_change(metrics, "val/")

    @staticmethod
    def _objective(module: nn.Module) -> Objective:
        assert isinstance(module, TrainedLam)
        return module.objective
