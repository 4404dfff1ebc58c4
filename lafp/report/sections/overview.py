"""Compares the variants of a study that have at most two methods each, in one chart and table."""

from collections.abc import Callable, Mapping

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import DEMONSTRATOR
from lafp.report import charts, drawings
from lafp.report.blocks import NO_VALUE, Section, Table, chart
from lafp.report.methods import name_of
from lafp.report.metrics import METRICS, OUTCOMES

MAX_METHODS = 2
_PROBE = "Probe R² of latent actions"
_BACKGROUNDS = {"probe_r2_seen": "Seen", "probe_r2_unseen": "Unseen"}
_NOISE = "probe_r2_noise"
_CONTROLS = {
    "embedding": ("Control: embedding", drawings.ORANGE),
    "random_lam": ("Control: untrained", drawings.GREY),
}
_LABELS = "Labeled transitions"
Column = tuple[str, Mapping[str, str]]
"""Head, and name of a variant -> cell. Variants that are missing have no value."""


def section(results: Results) -> Section | None:
    """Compares variants; None if there is only one, or if each has many methods."""
    labels = _labels(results)
    has_probe = any(g.subject.method == "lam" for g in results.of_metric("probe_r2"))
    if len(results.variants) < 2 or len(labels) > MAX_METHODS or not has_probe:
        return None
    return Section(
        id="overview",
        short="Overview",
        title="All variants",
        blocks=[
            chart(
                _drawing(results, labels),
                alt="Probe and outcome of every variant." if labels else "Probe of every variant.",
                caption="Every variant of the study, with 95 % intervals; small ticks are single "
                "training seeds. Probe R²: what a linear probe reads of the true action from "
                "latent actions. Rings: from the embedding of the observation, and from an "
                "untrained model.",
            ),
            *(_table(results, *setting, labels) for setting in results.settings.items()),
        ],
    )


def _labels(results: Results) -> dict[str, str]:
    """Maps the label of each method to its name."""
    subjects = [group.subject for group in results.of_metric(results.outcome)]
    return {s.label: name_of(s) for s in subjects if s.method != DEMONSTRATOR}


def _drawing(results: Results, labels: Mapping[str, str]) -> drawings.Drawing:
    """Draws a panel of probes for each setting, and one of outcomes beside it if there are any."""
    outcome = OUTCOMES[results.outcome]
    panels = []
    for setting, variants in results.settings.items():
        probes = charts.DotPanel(rows=_probes(results, variants), xlabel=_PROBE, title=setting)
        reached = charts.DotPanel(
            rows=_outcomes(results, variants, labels),
            xlabel=outcome.axis,
            title=setting,
            xlim=outcome.xlim,
            form=outcome.number,
        )
        panels += [panel for panel in (probes, reached) if panel.rows]
    return charts.dots(panels, num_columns=2, width_in=drawings.PAGE_WIDTH_IN)


def _probes(results: Results, variants: Mapping[str, str | None]) -> list[charts.Dot]:
    """Draws a dot for every variant, with its controls in the same row."""
    dots = []
    for name, variant in variants.items():
        found = results.of_variant(variant, "probe_r2")
        controls = [
            charts.Dot(title=title, value=found[of].value, color=color, is_open=True)
            for of, (title, color) in _CONTROLS.items()
            if of in found
        ]
        if "lam" in found:
            dots.append(charts.Dot.of(found["lam"], title=name, beside=controls))
    return dots


def _outcomes(
    results: Results, variants: Mapping[str, str | None], labels: Mapping[str, str]
) -> list[charts.Dot]:
    """Draws a dot for every variant and method."""
    dots = []
    for name, variant in variants.items():
        found = results.of_variant(variant, results.outcome)
        for label, method in labels.items():
            if label in found:
                title = f"{name}, {method}" if len(labels) > 1 else name
                dots.append(charts.Dot.of(found[label], title=title))
    return dots


def _table(
    results: Results, setting: str, variants: Mapping[str, str | None], labels: Mapping[str, str]
) -> Table:
    """Makes a table with one row per variant: probe, controls, and the outcome of each method.

    Args:
        results: Results of the study.
        setting: The values that all of these variants share.
        variants: Value on the first axis -> variant.
        labels: Label of each method -> its name.
    """
    found = {
        metric: {name: results.of_variant(variant, metric) for name, variant in variants.items()}
        for metric in ("probe_r2", *_BACKGROUNDS, _NOISE, results.outcome)
    }
    of_probe, of_outcome = found["probe_r2"], found[results.outcome]
    probe, above = METRICS["probe_r2"], _above_first(results, _with("lam", of_probe))
    columns = [
        _num_labels(_with("lam", of_probe), _LABELS + (" of the LAM" if labels else "")),
        (_PROBE, _written(_with("lam", of_probe), probe.number)),
        *([above] if above else []),
        # A page has no room for more intervals, nor for longer heads.
        *((head, _means(_with("lam", found[m]))) for m, head in _BACKGROUNDS.items()),
        (METRICS[_NOISE].title, _written(_with("lam", found[_NOISE]), probe.number)),
        *((title, _means(_with(of, of_probe))) for of, (title, _) in _CONTROLS.items()),
    ]
    outcome = OUTCOMES[results.outcome]
    for label, method in labels.items():
        groups = _with(label, of_outcome)
        columns += [
            _num_labels(groups, f"{method}: {_LABELS.lower()}"),
            (
                f"{method}: {outcome.axis}",
                {n: outcome.written(g.interval) for n, g in groups.items()},
            ),
        ]
    shown = [(head, cells) for head, cells in columns if cells]
    measured = [metric for metric in (*_BACKGROUNDS, _NOISE) if any(found[metric].values())]
    return Table(
        head=[f"Variant, {setting}" if setting else "Variant", *(head for head, _ in shown)],
        rows=[[name, *(cells.get(name, NO_VALUE) for _, cells in shown)] for name in variants],
        caption=" ".join(
            [
                "Means over training seeds with 95 % intervals. The probe is measured on labeled "
                "episodes that no training saw, and counts only where it beats its controls.",
                *([f"{above[0]}: mean difference between runs of the same seed."] if above else []),
                *filter(None, (METRICS[m].meaning for m in measured)),
                "Controls: the same probe on the embedding of the observation, and on latent "
                "actions of an untrained model.",
            ]
        ),
    )


def _with(label: str, found: Mapping[str, Mapping[str, Group]]) -> dict[str, Group]:
    return {name: groups[label] for name, groups in found.items() if label in groups}


def _written(groups: Mapping[str, Group], number: Callable[[float], str]) -> dict[str, str]:
    return {name: group.interval.written(number) for name, group in groups.items()}


def _means(groups: Mapping[str, Group]) -> dict[str, str]:
    return {name: METRICS["probe_r2"].written(group) for name, group in groups.items()}


def _num_labels(groups: Mapping[str, Group], head: str) -> Column:
    """Makes a column of the labels that trainings saw, empty where all saw equally many."""
    nums = {name: group.labeled_transitions for name, group in groups.items()}
    if len(set(nums.values())) < 2:
        return head, {}
    return head, {name: f"{num:,}" for name, num in nums.items() if num is not None}


def _above_first(results: Results, probes: Mapping[str, Group]) -> Column | None:
    """Makes a column of differences to the first variant.

    None with one seed, and where variants are tasks, whose probes say nothing of each other.
    """
    if len({row.task for row in results.rows} - {None}) > 1 or not probes:
        return None
    (first, reference), *others = probes.items()
    found = {name: group.difference(reference) for name, group in others}
    cells = {name: gain.written("{:+z.2f}".format) for name, gain in found.items() if gain}
    return (f"Above {first}", cells) if cells else None
