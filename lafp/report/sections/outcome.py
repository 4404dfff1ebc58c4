"""Shows how well the methods act: a dot with its interval for each, and a table of all metrics."""

from collections.abc import Sequence

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM, RETURN_ABOVE_RANDOM
from lafp.report import charts
from lafp.report.blocks import Block, Note, Section, Table, Text, chart, percent
from lafp.report.method_table import method_table
from lafp.report.methods import actions_of, color_of, is_lafp, name_of, noise_of, policies
from lafp.report.metrics import OUTCOMES
from lafp.runs.wording import counted

_COLUMNS = (
    "success",
    RETURN_ABOVE_RANDOM,
    "return",
    "length",
    "mode_coverage",
    "side_entropy",
    "action_r2",
    "action_mse",
    "action_accuracy",
)
_SLALOM = (
    "Slalom is built to hold a late, sharp fork on the centre line, where the mean of two ways is "
    "a crash. A policy that averages either crashes or, where its mean happens to tip over, always "
    "takes the same side: read success together with mode coverage. Slalom shows this mechanism; "
    "it is no proof that one method is better in general."
)
_INTERPOLATION = (
    "LAFP draws one of several ways at random. Cloning averages them. LAFP's action decoder is "
    "trained on the policy's own draws, each beside an action of a demonstrator. A free draw often "
    "goes another way than the demonstrator did, and then the decoder learns a wrong pair. "
    "Interpolation is for that: in training each draw starts at τₐ, between noise (0) and the "
    "demonstrator's own latent action (1), so most draws go the demonstrated way. It is not "
    "expected to beat a decoder that was trained on the demonstrators' own latent actions."
)
_ONE_SEED = "One training seed: the intervals cover episodes, not other training runs."


def section(results: Results, variant: str | None) -> Section | None:
    """Shows the outcome of every method in one variant; None if nothing was rolled out."""
    outcome, groups = OUTCOMES[results.outcome], policies(results, variant, results.outcome)
    if not groups:
        return None
    has_lafp = any(is_lafp(group.subject) for group in groups)
    blocks: list[Block] = [Text(text=_INTERPOLATION)] if has_lafp else []
    if len(groups) > 1:  # one dot says no more than the table
        blocks.append(
            chart(
                charts.dots([panel(results, variant)]),
                alt="Outcome of each method with its 95 % interval.",
                caption=f"In rollouts: {outcome.axis}, with 95 % intervals. "
                "τₐ is where the solver starts when the action decoder is trained: 0 = noise, "
                "1 = the demonstrator's own latent action, as the latent action model infers it "
                "(IDM latents), a range = each sample draws its own start."
                f"{_ticks(groups)}{on_widthless(groups)}",
            )
        )
    blocks.append(_table(results, variant, groups))
    notes = [_SLALOM] if any(group.subject.task == "slalom" for group in groups) else []
    notes += [_ONE_SEED] if len(results.seeds) < 2 else []
    blocks += [Note(text=" ".join(notes))] if notes else []
    return Section(id="outcome", short=outcome.title, title=outcome.question, blocks=blocks)


def panel(results: Results, variant: str | None, title: str = "") -> charts.DotPanel:
    """Draws the outcomes as dots, and the demonstrator's as a line."""
    outcome = OUTCOMES[results.outcome]
    expert = results.of_variant(variant, results.outcome).get(DEMONSTRATOR)
    return charts.DotPanel(
        rows=_dots(policies(results, variant, results.outcome)),
        xlabel=outcome.axis,
        title=title,
        xlim=outcome.xlim,
        reference=(expert.value, "demonstrators") if expert else None,
        form=outcome.number,
    )


def _dots(groups: Sequence[Group]) -> list[charts.Dot]:
    """Makes one dot per method. Noise, solver steps and sampling are named if they differ."""
    noises = {noise_of(group.subject) for group in groups if group.subject.noise}
    steps = {group.subject.solver_steps for group in groups if group.subject.solver_steps}
    found: list[charts.Dot] = []
    previous = ""
    for group in groups:
        subject = group.subject
        noise = f", {noise_of(subject)} noise" if len(noises) > 1 and subject.noise else ""
        num = subject.solver_steps if len(steps) > 1 else None
        in_steps = f", {counted(num, 'step')}" if num else ""
        sampled = f", {actions_of(subject)}" if subject.sample_actions else ""
        found.append(
            charts.Dot.of(
                group,
                title=name_of(subject) + noise + in_steps + sampled,
                color=color_of(subject),
                is_open=not is_lafp(subject),
                starts_group=bool(found) and noise != previous,
            )
        )
        previous = noise
    return found


def _ticks(groups: Sequence[Group]) -> str:
    if max(len(group.per_seed) for group in groups) > 1:
        return " Every small tick is one training seed."
    return ""


def on_widthless(groups: Sequence[Group]) -> str:
    """Warns of intervals without width: 0 of n (or n of n) successes are no certainty."""
    found = [
        g for g in groups if g.subject.metric.startswith("success") and g.interval.num_values > 1
    ]
    if not any(group.interval.low == group.interval.high for group in found):
        return ""
    bound = percent(min(1, 3 / found[0].interval.num_values))
    return (
        " Where no episode or every one succeeded, a bootstrap interval has no width; the true "
        f"share may still be {bound} off (rule of three)."
    )


def _table(results: Results, variant: str | None, groups: Sequence[Group]) -> Table:
    found = results.of_variant(variant, results.outcome)
    references = [found[name] for name in (DEMONSTRATOR, RANDOM) if name in found]
    num, num_seeds = groups[0].subject.n, max(len(group.per_seed) for group in groups)
    over = f"episodes ({num:,})"
    if num_seeds > 1:
        over = f"{num_seeds} training seeds and their episodes ({num:,} each)"
    shown = [*references, *groups]
    caption = f"Intervals: 95 %, over {over}."
    return method_table(results, variant, shown, _COLUMNS, caption=caption)
