"""Defines the pipeline's config, which is composed of the jobs' configs."""

from dataclasses import dataclass, field

from data_pipelines.collect import CollectConfig
from data_pipelines.label_latents import LabelLatentsConfig
from data_pipelines.preprocess.config import PreprocessConfig
from lafp.evaluate.config import EvaluateConfig
from lafp.finished.load import LAM_HEAD
from lafp.policies import POLICIES
from lafp.report.run_page import ReportConfig
from lafp.train.tasks.behavior_cloning import TrainBcConfig
from lafp.train.tasks.decoder import TrainDecoderConfig
from lafp.train.tasks.lam import TrainLamConfig
from lafp.train.tasks.policy import TrainPolicyConfig


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Configures all stages of one run, in order. A missing section skips its stage."""

    collect: CollectConfig | None = None
    """Renders demonstrations in an environment, to use instead of your own videos."""
    preprocess: PreprocessConfig | None = None
    """Videos without actions -> shards/videos."""
    preprocess_labeled: PreprocessConfig | None = None
    """The few episodes with actions -> shards/labeled."""
    train_lam: TrainLamConfig
    label_latents: LabelLatentsConfig | None = None
    """Stores the LAM's latent actions once, for policies with ``latents``."""
    train_policy: tuple[TrainPolicyConfig, ...] = ()
    """Each entry trains one policy: policy/<name>."""
    train_decoder: tuple[TrainDecoderConfig, ...] = ()
    """Each entry trains one action decoder: decoder/<name>."""
    train_bc: tuple[TrainBcConfig, ...] = ()
    """Each entry trains one policy of true actions, on the labels alone: policy/<name>."""
    evaluate: EvaluateConfig
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if self.preprocess_labeled and self.preprocess_labeled.labels is None:
            raise ValueError(
                "preprocess_labeled.labels is null, so no action would be read: set "
                "preprocess_labeled.labels={} or extend configs/preprocess/labeled.yaml."
            )
        if self.preprocess and self.train_lam.shards is None and not self.train_lam.data:
            self._check_clips("preprocess", self.preprocess)
        elif self.preprocess_labeled and self.train_lam.shards is None and not self.train_lam.data:
            self._check_clips("preprocess_labeled", self.preprocess_labeled)
        self._check_policies()
        self._check_methods()

    def _check_clips(self, key: str, source: PreprocessConfig) -> None:
        """Raises ValueError if clips may be too short for windows or action chunks."""
        frame_stack, clip = self.train_lam.window.frame_stack, source.clip
        if clip.min_frames < frame_stack + 1:
            raise ValueError(
                f"{key}.clip.min_frames is {clip.min_frames}, but a window with "
                f"train_lam.window.frame_stack {frame_stack} needs {frame_stack + 1} frames. Set "
                f"{key}.clip.min_frames={frame_stack + 1}, or lower frame_stack."
            )
        if clip.fps is None:
            return
        longest = max(clip.min_frames, int(clip.max_s * clip.fps + 1e-6)) - frame_stack
        for number, policy in enumerate(self.train_policy):
            if policy.shards is None and policy.policy.chunk_steps > longest:
                raise ValueError(
                    f"train_policy.{number}.policy.chunk_steps is {policy.policy.chunk_steps}, but "
                    f"clips of {key}.clip.max_s {clip.max_s} s at {clip.fps} fps have at most "
                    f"{longest} steps: the end of a chunk would never be learned. Lower "
                    f"chunk_steps, or raise {key}.clip.max_s."
                )

    def _check_policies(self) -> None:
        """Raises ValueError if a policy does not fit the LAM, or a decoder names no policy."""
        frame_stack = self.train_lam.window.frame_stack
        for number, policy in enumerate(self.train_policy):
            if policy.lam is None and policy.window.frame_stack != frame_stack:
                raise ValueError(
                    f"train_policy.{number}.window.frame_stack is {policy.window.frame_stack}, but "
                    f"train_lam.window.frame_stack is {frame_stack}. Set both to the same number."
                )
        names = [policy.policy.name for policy in self.train_policy]
        for number, action_decoder in enumerate(self.train_decoder):
            if action_decoder.policy not in names:
                raise ValueError(
                    f"train_decoder.{number}.policy is {action_decoder.policy!r}, and "
                    f"train_policy has {', '.join(names) or 'no policy'}. Add it there, or "
                    "correct the name."
                )
            try:
                POLICIES.get(action_decoder.policy).check_anchors(*action_decoder.anchor_range)
            except ValueError as error:
                raise ValueError(f"train_decoder.{number}.anchor_time: {error}") from None

    def _check_methods(self) -> None:
        """Raises ValueError if a method has an action decoder that does not fit its policy."""
        latent = {policy.policy.name: policy for policy in self.train_policy}
        cloned = {baseline.name for baseline in self.train_bc}
        for number, method in enumerate(self.evaluate.methods):
            where, name = f"evaluate.methods.{number}", method.action_decoder
            if method.policy in cloned and name is not None:
                raise ValueError(
                    f"{where}: policy {method.policy} predicts true actions, but action_decoder "
                    f"is {name}. Set action_decoder=null."
                )
            if method.policy not in latent:
                continue
            if name is None:
                raise ValueError(
                    f"{where}: policy {method.policy} predicts latent actions. Set action_decoder "
                    f"to a name of train_decoder, or to {LAM_HEAD}."
                )
            is_own_lam = latent[method.policy].lam is None
            if name == LAM_HEAD and is_own_lam and not self.train_lam.supervision.weight:
                raise ValueError(
                    f"{where}.action_decoder is {LAM_HEAD}, the LAM's own action head, but the LAM "
                    "is trained without labels: set train_lam.supervision.weight above 0."
                )
