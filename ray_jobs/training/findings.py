"""Writes the sentences that a training job prints when it is done.

See ``ray_jobs.core.findings``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lafp.report import training_findings
from lafp.runs.run_dir import StageDir
from lafp.train.metrics.log import read_metrics
from ray_jobs.core.findings import Summary

if TYPE_CHECKING:  # their modules import torch
    from lafp.train.tasks.lam import TrainLamConfig
    from lafp.train.tasks.policy import TrainPolicyConfig


def train_lam(cfg: "TrainLamConfig", stage: StageDir, summary: Summary) -> list[str]:
    """Says what the latent actions encode."""
    has_labels = "labeled_shards" in _inputs(stage)
    metrics = {**summary, **training_findings.over_training(read_metrics(stage.uri))}
    found = training_findings.lam_findings(metrics, cfg.objective.name, has_labels)
    if cfg.fdm_weight == 0:
        found.insert(0, training_findings.LABELS_ALONE)
    return [*training_findings.incident_findings(summary), *found]


def train_policy(cfg: "TrainPolicyConfig", _: StageDir, summary: Summary) -> list[str]:
    """Says how well the policy predicts latent actions."""
    is_flow = "flow" in cfg.policy.name
    found = training_findings.policy_findings(summary, is_flow)
    return [*training_findings.incident_findings(summary), *found]


def train_actions(_: object, __: StageDir, summary: Summary) -> list[str]:
    """Says how close predicted actions are to true ones, for a decoder or a cloned policy."""
    return [
        *training_findings.incident_findings(summary),
        *training_findings.action_findings(summary),
    ]


def _inputs(stage: StageDir) -> Mapping[str, str]:
    return stage.provenance()["inputs"] if stage.is_begun() else {}
