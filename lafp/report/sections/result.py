"""How well it works: success rates, modes kept, action error, latency, rollouts, the headline."""

from collections.abc import Mapping, Sequence

import numpy as np

from lafp.evaluate.outcomes import read_episode_outcomes
from lafp.evaluate.results import (
    BEHAVIOR_CLONING,
    DEMONSTRATOR,
    Result,
    outcome_metric,
    read_results,
    without_repeats,
)
from lafp.evaluate.run_record import RunRecord
from lafp.evaluate.statistics import bootstrap_interval
from lafp.report import charts
from lafp.report.blocks import (
    NO_VALUE,
    TIMES,
    Block,
    Note,
    Section,
    Table,
    Text,
    anchored,
    chart,
    percent,
)
from lafp.report.sections.outcome import OUTCOMES

_METHODS_IN_ORDER = ("latent_bc", "latent_bc_idm_decoder", "latent_flow")
_NO_POLICIES = (DEMONSTRATOR, "lam")
SLALOM_NOTE = (
    "Slalom is built to hold a late, sharp fork on the centre line, where the mean of two ways is "
    "a crash. A policy that averages either crashes or, where its mean happens to tip over, always "
    "takes the same side: read success together with mode coverage. Slalom shows this mechanism; "
    "it is no proof that one method is better in general."
)

_ONE_SEED = "One training seed: the intervals cover episodes, not other training runs."


def load_results(run: RunRecord) -> list[Result]:
    """The rows of ``evaluation/results.parquet``; empty before evaluation."""
    stage = run.complete("evaluation")
    if stage is None or not stage.has("results.parquet"):
        return []
    return read_results(stage.path("results.parquet"))


def name_of(row: Result) -> str:
    """A method in words."""
    if row.method == "latent_bc":
        return "Latent BC"
    if row.method == "latent_bc_idm_decoder":
        return "Latent BC, decoder on IDM latents"
    if row.method == BEHAVIOR_CLONING:
        return "BC from scratch on the labels"
    if row.method == "latent_flow" and row.anchor_time is not None:
        words = {0.0: "Flow, no interpolation", 1.0: "Flow, decoder on IDM latents"}
        return f"{words.get(row.anchor_time, 'LAFP')} ({anchored(row.anchor_time)})"
    return row.label


def color_of(row: Result) -> str:
    """One colour per method, the same in every chart."""
    if row.method != "latent_flow":
        return charts.GREY
    if row.anchor_time == 0:
        return charts.ORANGE
    return charts.TEAL if row.anchor_time == 1 else charts.BLUE


def is_lafp(row: Result) -> bool:
    """Whether the row is the flow policy with interpolation proper."""
    return row.method == "latent_flow" and row.anchor_time not in (None, 0.0, 1.0)


def of_metric(rows: Sequence[Result], metric: str) -> list[Result]:
    """The policies' rows of one metric, in the order baselines, then ``anchor_time``, by noise."""
    noises = list(dict.fromkeys(row.noise for row in rows if row.noise))
    chosen = [row for row in rows if row.metric == metric and row.method not in _NO_POLICIES]
    order = {method: index for index, method in enumerate(_METHODS_IN_ORDER)}
    return sorted(
        chosen,
        key=lambda row: (
            row.method == "latent_flow",
            noises.index(row.noise) if row.noise else -1,
            order.get(row.method, len(order)),
            row.anchor_time or 0.0,
            row.solver_steps or 0,
        ),
    )


def load_outcomes(run: RunRecord) -> dict[str, np.ndarray]:
    """Label -> the outcome of every episode, the same episodes for every label."""
    stage = run.complete("evaluation")
    if stage is None or not stage.has("episodes.parquet"):
        return {}
    return read_episode_outcomes(stage.path("episodes.parquet"))


def headline(rows: Sequence[Result], outcomes: Mapping[str, np.ndarray]) -> str | None:
    """The main result in one or two sentences, from the numbers; None without rollouts.

    Args:
        rows: The result table.
        outcomes: Of ``load_outcomes``: methods are compared episode by episode.
    """
    success = of_metric(rows, outcome_metric(rows))
    lafp = next((row for row in success if is_lafp(row)), None)
    if lafp is None:
        return None
    same = [r for r in success if r.noise == lafp.noise and r.solver_steps == lafp.solver_steps]
    outcome = OUTCOMES[lafp.metric]
    unit, verb = ("of", "in ") if lafp.metric == "success" else ("over", "")
    text = (
        f"With interpolation ({anchored(lafp.anchor_time)}) the flow policy "
        f"{outcome.does.format(outcome.written(lafp.interval))} {unit} {lafp.n} episodes"
        f"{_modes_kept(rows, lafp)}"
    )
    cloning = better_cloning(success)
    naive = next((row for row in same if row.anchor_time == 0), None)
    others = []
    if cloning:
        others.append(
            f"the better latent cloning {verb}{outcome.written(cloning.interval)}"
            f"{_modes_kept(rows, cloning)}"
        )
    if naive:
        found = outcome.written(naive.interval)
        others.append(f"the same flow policy without interpolation {verb}{found}")
    text += f", {' and '.join(others)}." if others else "."
    raw = next((row for row in same if row.anchor_time == 1), None)
    if raw is None or lafp.label not in outcomes or raw.label not in outcomes:
        return text
    return text + _verdict_on_raw(raw, outcomes[raw.label] - outcomes[lafp.label])


def better_cloning(success: Sequence[Result]) -> Result | None:
    """The cloning row that succeeds most: the baseline is never weakened."""
    rows = [row for row in success if row.method.startswith("latent_bc")]
    return max(rows, key=lambda row: row.value, default=None)


def _modes_kept(rows: Sequence[Result], method: Result) -> str:
    """Success alone would hide a policy that always goes the same way."""
    for row in rows:
        if row.label == method.label and row.metric == "mode_coverage" and row.value == row.value:
            return f" (mode coverage {row.value:.2f})"
    return ""


def _verdict_on_raw(raw: Result, difference: np.ndarray) -> str:
    """Compares with raw latents on the same episodes, which is sharper than two intervals."""
    gain = bootstrap_interval([difference])
    outcome = OUTCOMES[raw.metric]
    verdict = "so this run does not tell the two apart"
    if gain.low > 0:
        verdict = "so in this run raw latents do better"
    elif gain.high < 0:
        verdict = "so in this run interpolation does better"
    return (
        f" A decoder trained on raw IDM latents ({anchored(1)}) reaches "
        f"{outcome.written(raw.interval)}: {outcome.difference(gain)} on the same episodes, "
        f"{verdict}."
    )


def success_section(rows: Sequence[Result]) -> Section | None:
    """Outcomes as dots with intervals, and the table beside them."""
    metric = outcome_metric(rows)
    outcome, success = OUTCOMES[metric], of_metric(rows, metric)
    if not success:
        return None
    demonstrator = _demonstrator(rows, metric)
    blocks: list[Block] = [
        chart(
            charts.dots(
                _dots(success),
                outcome.axis,
                xlim=outcome.xlim,
                reference=(demonstrator.value, "demonstrators") if demonstrator else None,
                form=outcome.number,
            ),
            alt="Outcome of each method with its 95 % interval.",
            caption=f"In rollouts: {outcome.axis}, with 95 % bootstrap intervals over "
            f"{success[0].n} episodes. τₐ is where the solver starts when the action decoder is "
            "trained: 0 = noise, 1 = the demonstrator's own latent action. All flow rows share one "
            f"policy, and both cloning rows another.{_on_widthless(success)}",
        ),
        _table(rows, success),
    ]
    if any(row.task == "slalom" for row in rows):
        blocks.append(Note(text=f"{SLALOM_NOTE} {_ONE_SEED}"))
    return Section(id="success", short=outcome.title, title="Does it work?", blocks=blocks)


def _on_widthless(success: Sequence[Result]) -> str:
    """What an interval of no width hides: 0 of n (or n of n) successes."""
    is_share = all(row.metric == "success" for row in success)
    if not is_share or not any(row.low == row.high is not None for row in success):
        return ""
    bound = percent(3 / success[0].n)
    return (
        " Where no episode or every one succeeded, a bootstrap interval has no width; the true "
        f"share may still be {bound} off (rule of three)."
    )


def _dots(rows: Sequence[Result]) -> list[charts.Dot]:
    noises = {row.noise for row in rows if row.noise}
    dots, previous = [], None
    for row in rows:
        group = row.noise if len(noises) > 1 else None
        suffix = f", {row.noise} noise" if group else ""
        dots.append(
            charts.Dot(
                label=name_of(row) + suffix,
                value=row.value,
                low=row.low,
                high=row.high,
                color=color_of(row),
                is_open=not is_lafp(row),
                starts_group=previous is not None and group != previous[0],
            )
        )
        previous = (group,)
    return dots


def _demonstrator(rows: Sequence[Result], metric: str) -> Result | None:
    return next((r for r in rows if r.method == DEMONSTRATOR and r.metric == metric), None)


_COLUMNS = {
    "success": ("Success", "{}".format),
    "return_normalized": ("Return, % of demonstrators'", "{}".format),
    "return": ("Return", "{:.2f}".format),
    "length": ("Steps", "{:.1f}".format),
    "side_entropy": ("Side entropy", "{:.2f}".format),
    "mode_coverage": ("Mode coverage", "{:.2f}".format),
    "action_r2": ("Action R²", "{:.2f}".format),
    "latency_b1_ratio": ("Latency / BC", "{:.2f}".format),
}


def _table(rows: Sequence[Result], success: Sequence[Result]) -> Table:
    """One row per method, one column per metric that some method has."""
    values = {(row.label, row.metric): row for row in rows}
    metrics = without_repeats(
        [m for m in _COLUMNS if any((row.label, m) in values for row in success)]
    )
    shown = list(success)
    if demonstrator := _demonstrator(rows, success[0].metric):
        shown.append(demonstrator)
    body = []
    for row in shown:
        name = "Demonstrators" if row.method == DEMONSTRATOR else name_of(row)
        cells = [
            OUTCOMES[metric].written(row.interval)
            if metric == row.metric
            else _cell(values.get((row.label, metric)), metric)
            for metric in metrics
        ]
        body.append([name, row.noise or "", *cells])
    return Table(
        head=["Method", "Noise", *(_COLUMNS[metric][0] for metric in metrics)],
        rows=body,
        num_text_columns=2,
        emphasized=frozenset(i for i, row in enumerate(success) if is_lafp(row)),
        caption="Side entropy and mode coverage: entropy of the way taken (per fork, and of the "
        "whole path) over the demonstrators'; 1 keeps all ways. Episodes that fail before a fork "
        "do not count there, so read them beside the success. Action R²: the whole stack on "
        "held-out labeled episodes; a policy that keeps several ways cannot score high in it.",
    )


def _cell(row: Result | None, metric: str) -> str:
    if row is None or row.value != row.value:
        return NO_VALUE
    return _COLUMNS[metric][1](row.value)


_LATENCIES = {
    "latency_b1_ms": ("1 observation", "{:.2f} ms"),
    "latency_b1_ratio": ("over BC", "{:.2f} " + TIMES),
    "latency_b64_ms": ("64 observations", "{:.1f} ms"),
}


def latency_section(rows: Sequence[Result]) -> Section | None:
    """Time per action against cloning."""
    single = of_metric(rows, "latency_b1_ms")
    if not single:
        return None
    values = {(row.label, row.metric): row.value for row in rows}
    columns = {metric: c for metric, c in _LATENCIES.items() if metric in {r.metric for r in rows}}
    body = [
        [
            name_of(row),
            row.noise or "",
            str(row.solver_steps or NO_VALUE),
            *(
                _optional(values.get((row.label, metric)), form)
                for metric, (_, form) in columns.items()
            ),
        ]
        for row in single
    ]
    table = Table(
        head=["Method", "Noise", "Solver steps", *(title for title, _ in columns.values())],
        rows=body,
        num_text_columns=2,
        caption=f"Median of {single[0].n} interleaved timings of one action, encoder and action "
        "decoder included, on this machine. The paper claims less than one extra BC, so below "
        f"2 {TIMES}. Rows that differ in the action decoder alone do the same work: their spread "
        "is the noise of the timing.",
    )
    text = Text(
        text="The observation is encoded once per action; only the small velocity head runs at "
        "every solver step. That is what keeps a flow policy close to cloning."
    )
    return Section(
        id="latency", short="Latency", title="What does an action cost?", blocks=[text, table]
    )


def _optional(value: float | None, form: str) -> str:
    return NO_VALUE if value is None else form.format(value)
