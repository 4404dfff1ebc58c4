"""A study in words and tables: means over seeds, differences episode by episode."""

from lafp.evaluate.results import DEMONSTRATOR, Result, without_repeats
from lafp.evaluate.study import StudyResults, StudyRow
from lafp.report.blocks import NO_VALUE, Table
from lafp.report.sections.outcome import OUTCOMES
from lafp.report.sections.result import is_lafp, name_of

_COLUMNS = {
    "success": "Success",
    "return_normalized": "Return, % of demonstrators'",
    "return": "Return",
    "mode_coverage": "Mode coverage",
    "side_entropy": "Side entropy",
    "action_mse": "Action MSE",
    "latency_b1_ratio": "Time of an action over latent BC's",
}
_PROBE = {"probe_r2": "R²", "probe_mse": "MSE"}
_PROBED = {
    "lam": "from latent actions",
    "embedding": "from the observation's embedding",
    "random_lam": "from latent actions of an untrained model",
    "nothing": "from nothing",
}
_ALIGNMENT = {
    "alignment_to_idm": "Distance to IDM latents",
    "alignment_to_deployed": "Distance to deployed latents",
    "action_mse_on_idm": "Action MSE on IDM latents",
    "action_mse_on_deployed": "Action MSE on deployed latents",
}
_TWO_DIGITS = ("mode_coverage", "side_entropy", "latency_b1_ratio")


def headline(results: StudyResults, variant: str | None) -> str | None:
    """``headline_parts`` as a sentence; None where there are none."""
    if not (parts := headline_parts(results, variant)):
        return None
    found, *gains = parts
    return f"{found}: {'; '.join(gains)}." if gains else f"{found}."


def headline_parts(results: StudyResults, variant: str | None) -> list[str]:
    """What LAFP reaches, then its gain over each row that settles it; empty without LAFP."""
    rows = list(results.of_variant(variant, results.outcome).values())
    lafp = next((row for row in rows if is_lafp(row.subject)), None)
    if lafp is None:
        return []
    cloning = [row for row in rows if row.subject.method.startswith("latent_bc")]
    others = [max(cloning, key=lambda row: row.interval.mean)] if cloning else []
    others += [row for row in rows if _differs_in_anchor(row.subject, lafp.subject)]
    outcome = OUTCOMES[results.outcome]
    gains = [
        f"{outcome.difference(results.gain(variant, lafp.subject.label, row.subject.label))} over "
        f"{named(row.subject)}{_modes_kept(results, row)}"
        for row in others
    ]
    text = f"{named(lafp.subject)} {outcome.does.format(outcome.written(lafp.interval))}"
    return [text + _modes_kept(results, lafp), *gains]


def _modes_kept(results: StudyResults, row: StudyRow) -> str:
    """Success alone would hide a policy that always goes the same way."""
    for coverage in results.of_metric("mode_coverage"):
        if coverage.key == row.key:
            return f" (mode coverage {coverage.interval.mean:.2f})"
    return ""


def _differs_in_anchor(row: Result, lafp: Result) -> bool:
    same = (row.noise, row.solver_steps) == (lafp.noise, lafp.solver_steps)
    return row.method == "latent_flow" and same and row.anchor_time in (0.0, 1.0)


def markdown(results: StudyResults) -> str:
    """The tables of every variant, to be pasted into a document."""
    parts: list[str] = []
    for variant in results.variants():
        tables = [
            table_of(results, variant),
            probe_table(results, variant),
            alignment_table(results, variant),
        ]
        parts += [f"### {variant}"] if variant else []
        parts += [text] if (text := headline(results, variant)) else []
        parts += [markdown_table(table) for table in tables if table]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """To be pasted into a document."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def table_of(results: StudyResults, variant: str | None) -> Table | None:
    """One row per method, one column per metric; None where nothing acts."""
    by_metric = {metric: results.of_variant(variant, metric) for metric in _COLUMNS}
    success, outcome = by_metric[results.outcome], OUTCOMES[results.outcome]
    if not success:
        return None
    metrics = without_repeats([metric for metric, rows in by_metric.items() if rows])
    body = []
    for label, row in success.items():
        cells = [
            outcome.written(row.interval)
            if metric == results.outcome
            else _cell(by_metric[metric].get(label), metric)
            for metric in metrics
        ]
        subject = row.subject
        each = " ".join(outcome.number(value).removesuffix(" %") for value in row.per_seed)
        steps = str(subject.solver_steps or "")
        body.append([_method(subject), noise_of(subject), steps, *cells, each])
    num = max((len(row.per_seed) for row in success.values()), default=0)
    rows, seeds = enumerate(success.values()), "Seeds, %" if outcome.is_share else "Seeds"
    return Table(
        head=["Method", "Noise", "Steps", *(_COLUMNS[metric] for metric in metrics), seeds],
        rows=body,
        num_text_columns=2,
        emphasized=frozenset([next((i for i, row in rows if is_lafp(row.subject)), -1)]),
        caption=f"Means over {num} training seeds. Intervals: 95 %, bootstrap over seeds and "
        "episodes. Mode coverage and side entropy are over the demonstrators'; seeds "
        "where no episode passed a fork are left out. Seeds: the first number of each.",
    )


def probe_table(results: StudyResults, variant: str | None) -> Table | None:
    """What a linear probe reads from the latent actions, and its controls."""
    by_metric = {metric: results.of_variant(variant, metric) for metric in _PROBE}
    rows = by_metric["probe_r2"]
    if not rows:
        return None
    body = []
    for label, title in _PROBED.items():
        if label in rows:
            interval, each = rows[label].interval, rows[label].per_seed
            r2 = interval.written("{:z.2f}".format)
            mse = _cell(by_metric["probe_mse"].get(label), "probe_mse")
            body.append([title, r2, mse, " ".join(f"{value:.2f}" for value in each)])
    return Table(
        head=["Linear probe of the true action", *_PROBE.values(), "R² of each seed"],
        rows=body,
        caption="Fitted on some labeled episodes, measured on others that no training saw. A "
        "latent action only says something about actions if it beats the controls. Intervals: "
        "over seeds; with one seed over the held-out episodes.",
    )


def alignment_table(results: StudyResults, variant: str | None) -> Table | None:
    """Why the interpolation works: one row per action decoder."""
    by_metric = {metric: results.of_variant(variant, metric) for metric in _ALIGNMENT}
    by_decoder: dict[tuple[str, float | None], list[str]] = {}
    for label, row in by_metric["alignment_to_idm"].items():
        subject = row.subject
        cells = [_cell(rows.get(label), metric) for metric, rows in by_metric.items()]
        by_decoder.setdefault((subject.method, subject.anchor_time), [_method(subject), *cells])
    if not by_decoder:
        return None
    return Table(
        head=["Action decoder", *_ALIGNMENT.values()],
        rows=list(by_decoder.values()),
        caption="Energy distance, in standardized latents, of what the action decoder was trained "
        "on, from raw IDM latents and from what it meets at deployment; and its action error on "
        "both, paired with the demonstrated action: where a policy keeps several modes, a "
        "deployed latent is often another mode's, and its error no fault. A decoder should know "
        "the latents that it meets (small distance to deployed) in pairs that are right (small "
        "error on IDM latents).",
    )


def _method(row: Result) -> str:
    return "Demonstrators" if row.method == DEMONSTRATOR else name_of(row)


def noise_of(row: Result) -> str:
    """Noise at deployment, in words."""
    return f"held {row.noise_hold_steps}" if row.noise == "held" else row.noise or ""


def _cell(row: StudyRow | None, metric: str) -> str:
    if row is None:
        return NO_VALUE
    return f"{row.interval.mean:.2f}" if metric in _TWO_DIGITS else f"{row.interval.mean:.3f}"


def named(row: Result) -> str:
    """A method in words, with its noise and solver steps."""
    detail = ", ".join(
        text
        for text in (
            f"{noise_of(row)} noise" if row.noise else "",
            f"{row.solver_steps} steps" if row.solver_steps else "",
        )
        if text
    )
    return f"{name_of(row)}, {detail}" if detail else name_of(row)
