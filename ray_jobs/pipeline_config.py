"""The pipeline's config: the jobs' configs, composed."""

from dataclasses import dataclass, field

from data_pipelines.collect import CollectConfig
from data_pipelines.config import PreprocessConfig
from data_pipelines.label_latents import LabelLatentsConfig
from lafp.eval.config import EvaluateConfig
from lafp.eval.report import ReportConfig
from lafp.train.tasks.behavior_cloning import TrainBcConfig
from lafp.train.tasks.decoder import TrainDecoderConfig
from lafp.train.tasks.lam import TrainLamConfig
from lafp.train.tasks.policy import TrainPolicyConfig


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All stages of one run, in their order. A missing section skips its stage."""

    collect: CollectConfig | None = None
    """Render demonstrations in an environment, instead of bringing videos."""
    preprocess: PreprocessConfig | None = None
    """Videos without actions -> shards/videos."""
    preprocess_labeled: PreprocessConfig | None = None
    """The few episodes with actions -> shards/labeled."""
    train_lam: TrainLamConfig
    label_latents: LabelLatentsConfig | None = None
    """Store the LAM's latent actions once, for policies with ``latents``."""
    train_policy: tuple[TrainPolicyConfig, ...] = ()
    """One policy each: policy/<name>."""
    train_decoder: tuple[TrainDecoderConfig, ...] = ()
    """One action decoder each: decoder/<name>."""
    train_bc: tuple[TrainBcConfig, ...] = ()
    """One policy of true actions each, on the labels alone: policy/<name>."""
    evaluate: EvaluateConfig
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if self.preprocess_labeled and self.preprocess_labeled.labels is None:
            raise ValueError(
                "preprocess_labeled.labels is null, so no action would be read: set "
                "preprocess_labeled.labels={} or extend configs/preprocess/labeled.yaml."
            )
