"""Names, colours and order of methods, the same on every page."""

from collections.abc import Iterable

from lafp.evaluate.grouped import Group, Results
from lafp.evaluate.results import BEHAVIOR_CLONING, DEMONSTRATOR, Subject
from lafp.report import charts
from lafp.report.blocks import anchored
from lafp.runs.wording import counted

_IN_ORDER = ("latent_bc", "latent_bc_idm_decoder", "latent_bc_idm_head", "latent_flow")
_NO_POLICIES = (DEMONSTRATOR, "lam")


def name_of(subject: Subject) -> str:
    """Names a method in words."""
    if subject.method == DEMONSTRATOR:
        return "Demonstrators"
    if subject.method == "latent_bc":
        return "Latent BC"
    if subject.method == "latent_bc_idm_decoder":
        return "Latent BC, decoder on IDM latents"
    if subject.method.endswith("_idm_head"):
        policy = "Latent BC" if subject.method.startswith("latent_bc") else "Flow"
        return f"{policy}, the LAM's action head"
    if subject.method == BEHAVIOR_CLONING:
        return "BC from scratch on the labels"
    if subject.method == "latent_flow" and subject.anchor_time is not None:
        words = {0.0: "Flow, no interpolation", 1.0: "Flow, decoder on IDM latents"}
        return f"{words.get(subject.anchor_time, 'LAFP')} ({anchored(subject.anchor_time)})"
    return subject.label


def noise_of(subject: Subject) -> str:
    """Names the noise at deployment."""
    if subject.noise == "held":
        return f"held {subject.noise_hold_steps}"
    return subject.noise or ""


def named(subject: Subject) -> str:
    """Names a method in words, with its noise and solver steps."""
    noise = f"{noise_of(subject)} noise" if subject.noise else ""
    steps = counted(subject.solver_steps, "step") if subject.solver_steps else ""
    return ", ".join(filter(None, [name_of(subject), noise, steps]))


def color_of(subject: Subject) -> str:
    """Returns the colour of a method, the same in every chart."""
    if subject.method != "latent_flow":
        return charts.GREY
    if subject.anchor_time == 0:
        return charts.ORANGE
    return charts.TEAL if subject.anchor_time == 1 else charts.BLUE


def is_lafp(subject: Subject) -> bool:
    """Tells whether this is a flow policy whose τₐ lies between 0 and 1."""
    return subject.method == "latent_flow" and subject.anchor_time not in (None, 0.0, 1.0)


def policies(results: Results, variant: str | None, metric: str) -> list[Group]:
    """Sorts groups of policies: baselines, then by noise, ``anchor_time`` and solver steps."""
    groups = results.of_variant(variant, metric).values()
    noises = list(dict.fromkeys(noise_of(g.subject) for g in groups))
    order = {method: index for index, method in enumerate(_IN_ORDER)}
    return sorted(
        (group for group in groups if group.subject.method not in _NO_POLICIES),
        key=lambda group: (
            group.subject.method == "latent_flow",
            noises.index(noise_of(group.subject)) if group.subject.noise else -1,
            order.get(group.subject.method, len(order)),
            group.subject.anchor_time or 0.0,
            group.subject.solver_steps or 0,
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
    """Returns flow policies that differ from ``lafp`` only in the decoder: τₐ = 0, then τₐ = 1."""
    same = (lafp.subject.noise, lafp.subject.solver_steps)
    found = [
        group
        for group in groups
        if group.subject.method == "latent_flow"
        and group.subject.anchor_time in (0.0, 1.0)
        and (group.subject.noise, group.subject.solver_steps) == same
    ]
    return sorted(found, key=lambda group: group.subject.anchor_time or 0.0)
