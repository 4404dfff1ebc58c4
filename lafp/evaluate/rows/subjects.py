"""Reads from a run directory which models a method uses, and how they were trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lafp.config import ConfigError, config_from_dict
from lafp.data.labels import count_labels
from lafp.data.shards.sets import shards_sha256
from lafp.envs.base import VectorEnv
from lafp.evaluate.config import MethodConfig
from lafp.evaluate.latents.representations import ENCODER_PAIR
from lafp.evaluate.rows.results import BEHAVIOR_CLONING, DEMONSTRATOR, Subject
from lafp.finished.load import LAM_HEAD, lam_behind
from lafp.finished.saved_model import read_card
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.train.transitions import anchor_range
from lafp.types import ObsSpec


def lam_subject(
    lam_uri: str, labeled_shards: str | None, study: str | None, variant: str | None
) -> Subject:
    """Describes the latent action model, for the rows of its probes.

    It gets the number of labels that supervised it, but no ``label_fraction``: a study whose rows
    all have one is a study over shares of the labels.

    Args:
        lam_uri: Folder of the latent action model.
        labeled_shards: Labeled set at hand, if any. Labels can be counted only if they supervised
            the model from this set.
        study: Name of the study.
        variant: What the study varied in this run.
    """
    config, card = StageDir(lam_uri, "lam").config(), read_card(lam_uri, "lam")
    supervision = config_from_dict(SupervisionConfig, config["supervision"])
    labels: tuple[int | None, int | None] = (None, None)
    if supervision.weight == 0:
        labels = (0, 0)
    elif labeled_shards is not None and _was_trained_with(lam_uri, labeled_shards):
        labels = count_labels(
            labeled_shards,
            supervision.label_fraction,
            supervision.label_seed,
            config_from_dict(ObsSpec, card["specs"]["obs"]).frame_stack,
        )
    return Subject(
        label="lam",
        method="lam",
        study=study,
        variant=variant,
        objective=card["config"]["name"],
        supervision_weight=supervision.weight,
        labeled_transitions=labels[0],
        labeled_episodes=labels[1],
        seed=config["train"]["seed"],
    )


def encoder_subject() -> Subject:
    """Describes a frozen encoder, for the rows of its probes."""
    return Subject(label=ENCODER_PAIR, method=ENCODER_PAIR)


def supervised_clips(lam_uri: str, shards: str) -> frozenset[str]:
    """Returns the ids of a labeled set's clips whose actions supervised a LAM.

    The set is known by its content, wherever it lies now.

    Raises:
        ConfigError: The folder does not say how the LAM was trained.
    """
    if not _was_trained_with(lam_uri, shards):
        return frozenset()
    config = StageDir(lam_uri, "lam").config()
    return config_from_dict(SupervisionConfig, config["supervision"]).clips_of(shards)


def _was_trained_with(lam_uri: str, shards: str) -> bool:
    """Tells whether a LAM read this labeled set, which is known by its content."""
    lam = StageDir(lam_uri, "lam")
    if not lam.is_begun():
        raise ConfigError(
            f"{lam_uri} holds a model without provenance.json and config.yaml, which say whose "
            "labels supervised it. Copy the whole folder that train_lam wrote."
        )
    return bool(lam.provenance()["inputs"].get("labeled_shards") == shards_sha256(shards))


def demonstrator_subject(env: VectorEnv, study: str | None, variant: str | None) -> Subject:
    """Describes the environment's demonstrator."""
    return Subject(
        label=DEMONSTRATOR,
        method=DEMONSTRATOR,
        study=study,
        variant=variant,
        task=env.task,
        distractors=env.has_distractors,
    )


def method_subject(run_uri: str, method: MethodConfig, lam: Subject, env: VectorEnv) -> Subject:
    """Describes a policy with its action decoder, from what the run's folders say of them.

    Args:
        run_uri: The run's folder.
        method: The method, as the config names it.
        lam: The latent action model behind it.
        env: The environment of the rollouts.

    Raises:
        ConfigError: A model is missing, or the environment's frames differ in size or rate from
            those that the policy was trained on.
    """
    run = RunDir(run_uri)
    policy_stage = run.stage(f"policy/{method.policy}")
    policy_uri = policy_stage.uri
    card = read_card(policy_uri, "policy")
    obs = config_from_dict(ObsSpec, card["specs"]["obs"])
    _check_sees(policy_uri, obs, env)
    policy = card["config"] | method.overrides
    trained = policy_stage.config()
    subject = replace(
        lam,
        label=method.label,
        task=env.task,
        distractors=env.has_distractors,
        noise=policy.get("noise"),
        noise_hold_steps=policy["noise_hold_steps"] if policy.get("noise") == "held" else None,
        solver_steps=policy.get("num_solver_steps"),
        sample_actions=method.sample_actions or None,
        seed=trained["train"]["seed"],
    )
    if "action" in card["specs"]:
        if method.action_decoder is not None:
            raise ConfigError(
                f"Method {method.label}: the policy at {policy_uri} predicts true actions. Set "
                "action_decoder=null."
            )
        return replace(
            subject,
            method=BEHAVIOR_CLONING,
            objective=None,
            supervision_weight=None,
            **_labels(run, trained, trained, obs.frame_stack),
            label_scope="policy",
        )
    if method.action_decoder is None:
        raise ConfigError(
            f"Method {method.label}: the policy at {policy_uri} predicts latent actions. Name the "
            "action decoder that reads them: action_decoder=..."
        )
    if method.action_decoder == LAM_HEAD:
        lam_config = StageDir(lam_behind(run, policy_uri), "lam").config()
        return replace(
            subject,
            method=f"{policy['name']}_idm_head",
            **_labels(run, lam_config, lam_config["supervision"], obs.frame_stack),
            label_scope="lam",
        )
    action_decoder = run.stage(f"decoder/{method.action_decoder}").config()
    low, high = anchor_range(action_decoder["anchor_time"])
    return replace(
        subject,
        method=_method_name(policy["name"], low) + ("_tuned" if action_decoder["finetune"] else ""),
        anchor_low=low,
        anchor_high=high,
        anchor_steps=action_decoder["anchor_steps"],
        **_labels(run, action_decoder, action_decoder, obs.frame_stack),
        label_scope="both" if lam.supervision_weight else "action_decoder",
    )


def _labels(
    run: RunDir, config: Mapping[str, Any], section: Mapping[str, Any], frame_stack: int
) -> dict[str, Any]:
    """Counts the labels that a training saw, by its config and the section that chose them."""
    shards = config.get("labeled_shards") or run.stage("shards/labeled").uri
    fraction = section["label_fraction"]
    found = count_labels(shards, fraction, section["label_seed"], frame_stack)
    return {
        "label_fraction": fraction,
        "labeled_transitions": found.transitions,
        "labeled_episodes": found.episodes,
    }


def _check_sees(policy_uri: str, obs: ObsSpec, env: VectorEnv) -> None:
    trained = (obs.height_px, obs.width_px, round(obs.fps, 2))
    shown = (env.height_px, env.width_px, round(env.fps, 2))
    if trained != shown:
        raise ConfigError(
            f"The policy at {policy_uri} was trained on frames of {trained[0]}x{trained[1]} px at "
            f"{trained[2]:g} per second, {env.task} shows {shown[0]}x{shown[1]} px at "
            f"{shown[2]:g}. Preprocess its videos to that size and rate."
        )


def _method_name(policy: str, lowest_anchor: float) -> str:
    if policy == "latent_bc" and lowest_anchor == 1:
        return "latent_bc_idm_decoder"
    return policy
