"""Names, colours and order of methods, the same on every page."""

from collections.abc import Iterable
from dataclasses import replace

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import BEHAVIOR_CLONING, DEMONSTRATOR, RANDOM, Subject
from lafp.report import drawings
from lafp.report.blocks import anchored
from lafp.runs.wording import counted

_IN_ORDER = ("latent_bc", "latent_bc_idm_decoder", "latent_bc_idm_head", "latent_flow")
_ENDS = {(0.0, 0.0): "Flow, no interpolation", (1.0, 1.0): "Flow, decoder on IDM latents"}
"""The flow policy with a decoder on free samples, and with one on latents of the LAM."""
_OTHER_STEPS = {"all": ", all steps", "one": ", one step"}
_TUNED, _FLOW_IDM_HEAD = "_tuned", "latent_flow_idm_head"
_NO_POLICIES = (DEMONSTRATOR, RANDOM, "lam")


def name_of(subject: Subject) -> str:
    """Names a method in words."""
    if subject.method.endswith(_TUNED):
        frozen = replace(subject, method=subject.method.removesuffix(_TUNED))
        return f"{name_of(frozen)}, fine-tuned"
    if subject.method == DEMONSTRATOR:
        return "Demonstrators"
    if subject.method == RANDOM:
        return "Random actions"
    if subject.method == "latent_bc":
        return "Latent BC"
    if subject.method == "latent_bc_idm_decoder":
        return "Latent BC, decoder on IDM latents"
    if subject.method.endswith("_idm_head"):
        policy = "Latent BC" if subject.method.startswith("latent_bc") else "Flow"
        return f"{policy}, the LAM's action head"
    if subject.method == BEHAVIOR_CLONING:
        return "BC from scratch on the labels"
    if subject.method == "latent_flow" and subject.anchors is not None:
        steps = _OTHER_STEPS.get(subject.anchor_steps or "", "") if is_lafp(subject) else ""
        return f"{_ENDS.get(subject.anchors, 'LAFP')} ({anchored(*subject.anchors)}{steps})"
    return subject.label


def noise_of(subject: Subject) -> str:
    """Names the noise at deployment."""
    if subject.noise == "held":
        return f"held {subject.noise_hold_steps}"
    return subject.noise or ""


def actions_of(subject: Subject) -> str:
    """Says that actions are sampled; empty where the likeliest one is taken."""
    return "sampled actions" if subject.sample_actions else ""


def named(subject: Subject) -> str:
    """Names a method in words, with its noise, its solver steps and how it chooses actions."""
    noise = f"{noise_of(subject)} noise" if subject.noise else ""
    steps = counted(subject.solver_steps, "step") if subject.solver_steps else ""
    return ", ".join(filter(None, [name_of(subject), noise, steps, actions_of(subject)]))


def color_of(subject: Subject) -> str:
    """Returns the colour of a method, the same in every chart."""
    if subject.method == _FLOW_IDM_HEAD:
        return drawings.PURPLE
    if subject.method != "latent_flow":
        return drawings.GREY
    if subject.anchor_time == 0:
        return drawings.ORANGE
    return drawings.TEAL if subject.anchor_time == 1 else drawings.BLUE


def is_lafp(subject: Subject) -> bool:
    """Tells whether this is a flow policy whose τₐ lies between 0 and 1."""
    return subject.method == "latent_flow" and subject.anchors not in (None, *_ENDS)


def policies(results: Results, variant: str | None, metric: str) -> list[Group]:
    """Sorts groups of policies: baselines, then by noise, ``anchor_time`` and solver steps."""
    groups = results.of_variant(variant, metric).values()
    noises = list(dict.fromkeys(noise_of(g.subject) for g in groups))
    order = {method: index for index, method in enumerate(_IN_ORDER)}
    return sorted(
        (group for group in groups if group.subject.method not in _NO_POLICIES),
        key=lambda group: (
            group.subject.method.startswith("latent_flow"),
            noises.index(noise_of(group.subject)) if group.subject.noise else -1,
            order.get(group.subject.method, len(order)),
            _rank(group.subject),
            group.subject.solver_steps or 0,
            bool(group.subject.sample_actions),
        ),
    )


def lafp_of(results: Results, variant: str | None) -> Group | None:
    """Returns the outcome of the config's first method for which ``is_lafp``."""
    groups = results.of_variant(variant, results.outcome).values()
    return next((group for group in groups if is_lafp(group.subject)), None)


def better_cloning(groups: Iterable[Group]) -> Group | None:
    """Returns the latent cloning that does best: the baseline is never weakened."""
    cloning = (group for group in groups if group.subject.method.startswith("latent_bc"))
    return max(cloning, key=lambda group: group.value, default=None)


def without_interpolation(groups: Iterable[Group], lafp: Group) -> list[Group]:
    """Returns the flow policies that differ from ``lafp`` only in their action decoder.

    Theirs is trained on free samples of the policy, or on latents of the LAM, or is the LAM's own
    action head.
    """
    same = _deployment(lafp.subject)
    found = [
        group
        for group in groups
        if (group.subject.method == "latent_flow" and group.subject.anchors in _ENDS)
        or group.subject.method == _FLOW_IDM_HEAD
        if _deployment(group.subject) == same
    ]
    return sorted(found, key=lambda group: _rank(group.subject))


def _deployment(subject: Subject) -> tuple[str | None, int | None, bool | None]:
    return subject.noise, subject.solver_steps, subject.sample_actions


def _rank(subject: Subject) -> tuple[float, float]:
    """Ranges of τₐ before single ones, and the LAM's own action head last."""
    if subject.anchors is None:
        return (2.0, 0.0)
    return (0.0 if subject.anchor_time is None else 1.0, subject.anchors[0])
