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


def lam_subject(lam_uri: str, study: str | None, variant: str | None) -> Subject:
    """Describes the latent action model, for the rows of its probes."""
    config = StageDir(lam_uri, "lam").config()
    return Subject(
        label="lam",
        method="lam",
        study=study,
        variant=variant,
        objective=read_card(lam_uri, "lam")["config"]["name"],
        supervision_weight=config["supervision"]["weight"],
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
    lam = StageDir(lam_uri, "lam")
    if not lam.is_begun():
        raise ConfigError(
            f"{lam_uri} holds a model without provenance.json and config.yaml, which say whose "
            "labels supervised it. Copy the whole folder that train_lam wrote."
        )
    if lam.provenance()["inputs"].get("labeled_shards") != shards_sha256(shards):
        return frozenset()
    supervision = config_from_dict(SupervisionConfig, lam.config()["supervision"])
    return supervision.clips_of(shards)


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
