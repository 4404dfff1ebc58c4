"""Loads the models of a finished run that an agent needs: a policy and its action decoder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.finished.lam_action_decoder import LamActionDecoder, load_lam_action_decoder
from lafp.finished.saved_model import TUNED_POLICY, load_model, read_card
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig, TrueActions
from lafp.policies import POLICIES
from lafp.policies.base import Policy
from lafp.runs.run_dir import RunDir, StageDir
from lafp.types import ActionSpec, ObsSpec

LAM_HEAD = "idm"
"""Name, instead of an action decoder's, of the head that was trained inside the LAM (IDM-AD)."""


_NAME_LAM = (
    "If the LAM lies elsewhere, give its folder with lam=. The policy's config.yaml names it, and "
    "it is not opened unasked, because a stranger may have written the address."
)


def load_models(
    run_dir: str,
    policy: str | None,
    action_decoder: str | None,
    lam: str | None,
    device: torch.device,
    overrides: Mapping[str, object],
) -> tuple[Policy, ActionDecoder | LamActionDecoder | TrueActions]:
    """Loads a policy and its action decoder, or for true actions their units.

    See ``Agent.load`` for the arguments.

    Raises:
        ConfigError: See ``Agent.load``.
    """
    run = RunDir(run_dir)
    if policy is not None and action_decoder is None:
        policy_uri = _stage(run, "policy", policy)
        if action := read_card(policy_uri, "policy")["specs"].get("action"):
            true_actions = TrueActions(config_from_dict(ActionSpec, action))
            return load_policy(policy_uri, device, overrides), true_actions
    name = action_decoder or _only_decoder(run, policy)
    if name == LAM_HEAD:
        policy_uri = _stage(run, "policy", policy or _only_latent_policy(run))
        return load_policy(policy_uri, device, overrides), _lam_head(run, policy_uri, lam, device)
    loaded, specs = load_action_decoder(_stage(run, "decoder", name), device)
    policy_uri = policy_behind(run, name, policy)
    if read_card(policy_uri, "policy")["weights_sha256"] != specs["policy_sha256"]:
        raise ConfigError(
            f"The action decoder '{name}' was trained on the latent actions of another "
            f"policy than {policy_uri}. Train the decoder again."
        )
    return load_policy(policy_uri, device, overrides), loaded


def policy_behind(run: RunDir, action_decoder: str, policy: str | None = None) -> str:
    """Finds the folder of the policy that a finished action decoder reads.

    This is the policy that was fine-tuned together with the decoder, if any. Otherwise it is
    ``policy`` of the run, by default the one that the decoder was trained on.
    """
    decoder_uri = _stage(run, "decoder", action_decoder)
    specs = read_card(decoder_uri, "decoder")["specs"]
    if specs["is_policy_tuned"] and policy in (None, specs["policy"]):
        return storage.join(decoder_uri, TUNED_POLICY)
    return _stage(run, "policy", policy or specs["policy"])


def lam_behind(run: RunDir, policy_uri: str) -> str:
    """Returns the folder of the LAM whose latent actions a finished policy predicts.

    It may lie anywhere, so this is for runs of the user, not for models of strangers.
    """
    return given_lam(policy_uri) or run.stage("lam").uri


def given_lam(policy_uri: str) -> str | None:
    """Returns the LAM that the config of a policy names; None if it is that of the same run.

    Raises:
        ConfigError: The policy predicts true actions, so no LAM stands before it.
    """
    config = StageDir(policy_uri, "policy").config()
    if "lam" not in config:
        raise _NoLatentsError(policy_uri)
    return config["lam"]


class _NoLatentsError(ConfigError):
    def __init__(self, policy_uri: str) -> None:
        super().__init__(
            f"The policy at {policy_uri} predicts true actions (train_bc), so it has no LAM and "
            "needs no action decoder. Leave the action decoder out, or name a policy that "
            "predicts latent actions."
        )


def _lam_head(
    run: RunDir, policy_uri: str, lam: str | None, device: torch.device
) -> LamActionDecoder:
    specs = read_card(policy_uri, "policy")["specs"]
    if "action" in specs:
        raise _NoLatentsError(policy_uri)
    # The policy's config may name a LAM elsewhere. A stranger may have written that address, so
    # only the user's own word opens one outside of the run.
    lam_uri = lam or run.stage("lam").uri
    if not (lam or storage.is_file(storage.join(lam_uri, "model.json"))):
        raise ConfigError(f"{run.uri} holds no LAM, whose action head is to act. {_NAME_LAM}")
    wanted = specs["lam_sha256"]
    if read_card(lam_uri, "lam")["weights_sha256"] != wanted:
        raise ConfigError(
            f"The policy at {policy_uri} was trained on another LAM than {lam_uri}, so that LAM's "
            f"action head cannot decode it. {_NAME_LAM}"
        )
    return load_lam_action_decoder(lam_uri, device)


def _only_latent_policy(run: RunDir) -> str:
    """Returns the one policy of a run that predicts latent actions."""
    names = sorted(set(_finished(run, "policy")) - set(_cloned_policies(run)))
    if len(names) == 1:
        return names[0]
    found = ", ".join(names) or "none"
    raise ConfigError(
        f"action_decoder={LAM_HEAD} needs one policy of {run.uri}, which has {found}. "
        "Name it with policy=."
    )


def _stage(run: RunDir, folder: str, name: str) -> str:
    """Finds the URI of a finished policy or decoder by its name."""
    stage = run.stage(f"{folder}/{name}")
    if not stage.has("model.json"):
        names = _finished(run, folder)
        raise ConfigError(
            f"{run.uri} has no finished {folder} '{name}'. "
            f"{_instead(run, f'Its {folder} folders that are finished: ', names)}"
        )
    return stage.uri


def _finished(run: RunDir, folder: str) -> list[str]:
    """Lists the names of the finished models in ``folder`` of a run."""
    stages = run.stages_below(folder)
    return [s.name.removeprefix(f"{folder}/") for s in stages if s.has("model.json")]


def _only_decoder(run: RunDir, policy: str | None) -> str:
    """Finds the only decoder of a run, for ``policy`` if it is given."""
    names = []
    for name in _finished(run, "decoder"):
        card = read_card(run.stage(f"decoder/{name}").uri, "decoder")
        if policy in (None, card["specs"]["policy"]):
            names.append(name)
    of_policy = f" for policy '{policy}'" if policy else ""
    if not names:
        policies = [] if policy else _cloned_policies(run)
        raise ConfigError(
            f"No finished action decoder{of_policy} in {run.uri}. "
            + _instead(
                run, "Policies of true actions need none; choose one with policy=: ", policies
            )
        )
    if len(names) > 1:
        raise ConfigError(
            f"{run.uri} has several action decoders{of_policy}. Choose one with "
            f"action_decoder=: {', '.join(sorted(names))}."
        )
    return names[0]


def _cloned_policies(run: RunDir) -> list[str]:
    """Lists the policies that predict true actions (``train_bc``)."""
    return [
        name
        for name in _finished(run, "policy")
        if "action" in read_card(run.stage(f"policy/{name}").uri, "policy")["specs"]
    ]


def _instead(run: RunDir, lead: str, names: list[str]) -> str:
    """Suggests what to do about a missing model: choose a name, another folder, or train."""
    if names:
        return f"{lead}{', '.join(names)}."
    if below := storage.list_folders(storage.join(run.uri, "runs")):
        return f"That folder is a study; its runs are {run.uri}/runs/: {', '.join(below)}."
    if not storage.list_folders(run.uri):
        return "There is no run folder there; give the path that training wrote, such as runs/mine."
    return "Run ray_jobs.train_policy and ray_jobs.train_decoder first, or wait for them to end."


def load_policy(
    uri: str,
    device: torch.device | str = "cpu",
    overrides: Mapping[str, object] | None = None,
) -> Policy:
    """Loads a finished policy, frozen and in eval mode.

    Args:
        uri: Folder with ``model.safetensors`` and ``model.json``.
        device: The device that the policy runs on.
        overrides: Config values to change, e.g. ``{"num_solver_steps": 1}``. Only those that
            affect acting are useful.

    Raises:
        ConfigError: There is no finished policy, or an override is not a key of its config.
    """
    card, weights = load_model(uri, "policy")
    with _sound(uri):
        return _policy(card, weights, overrides or {}).to(device).eval().requires_grad_(False)


def _policy(
    card: dict[str, Any], weights: dict[str, torch.Tensor], overrides: Mapping[str, object]
) -> Policy:
    policy_class = POLICIES.get(card["config"]["name"])
    cfg = config_from_dict(policy_class.Config, {**card["config"], **overrides})
    obs = config_from_dict(ObsSpec, card["specs"]["obs"])
    policy = policy_class(cfg, obs, card["specs"]["latent_action_dim"])
    policy.load_state_dict(weights)
    return policy


@contextmanager
def _sound(uri: str) -> Iterator[None]:
    """Words the errors of a folder whose weights do not fit its ``model.json``."""
    try:
        yield
    except ConfigError:
        raise
    except (ArithmeticError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as e:
        line = " ".join(str(e).split())[:300]
        raise ConfigError(
            f"{uri} is damaged, its model cannot be built: {type(e).__name__}: {line}. Copy the "
            "folder again, or train the model again."
        ) from e


def load_action_decoder(
    uri: str, device: torch.device | str = "cpu"
) -> tuple[ActionDecoder, dict[str, Any]]:
    """Loads a finished action decoder, frozen and in eval mode.

    Returns:
        The decoder, and the ``specs`` of its ``model.json``: which policy and LAM it belongs to.

    Raises:
        ConfigError: There is no finished decoder at ``uri``.
    """
    card, weights = load_model(uri, "decoder")
    specs = card["specs"]
    with _sound(uri):
        action_decoder = ActionDecoder(
            config_from_dict(ActionDecoderConfig, card["config"]),
            config_from_dict(ActionSpec, specs["action"]),
            specs["latent_action_dim"],
            specs["embed_dim"],
        )
        action_decoder.load_state_dict(weights)
        return action_decoder.to(device).eval().requires_grad_(False), specs
