"""The sentences that an evaluation comes down to: the headline of every page, and its warnings.

Each number stands beside its control: a method beside the baselines, on the same episodes; the
probe of z beside its controls; the predicted frame beside assuming no change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lafp.evaluate.latents.latent_views import LatentViews
from lafp.evaluate.latents.representations import LAM, subject_of
from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import BEHAVIOR_CLONING, DEMONSTRATOR
from lafp.evaluate.rows.statistics import Interval
from lafp.objectives.health import CONSTANT, DEAD_CODEBOOK, DEAD_PERPLEXITY, not_above_embedding
from lafp.report.blocks import Note, percent
from lafp.report.methods import (
    better_cloning,
    lafp_of,
    name_of,
    named,
    policies,
    without_interpolation,
)
from lafp.report.metrics import METRICS, OUTCOMES
from lafp.report.training_findings import (
    PROBE_CONTROLS,
    lam_signs,
    not_predicting,
    probe_finding,
)
from lafp.runs.wording import counted

# Another pair's latent action must do this much harm, or the forward model ignores z.
_MIN_HARM = 1.1


def headline(results: Results, variant: str | None) -> list[str]:
    """Says what LAFP reaches, then its gain over each baseline that is needed to judge it.

    Returns:
        Lines; none where no policy with interpolation was rolled out.
    """
    groups = policies(results, variant, results.outcome)
    lafp = lafp_of(results, variant)
    if lafp is None:
        return []
    # The best cloning that chooses actions in the same way, and the best of all if it is another.
    alike = [g for g in groups if g.subject.sample_actions == lafp.subject.sample_actions]
    cloning = {id(g): g for g in (better_cloning(alike), better_cloning(groups)) if g}
    others = [*cloning.values(), *without_interpolation(groups, lafp)]
    outcome = OUTCOMES[results.outcome]
    does = outcome.does.format(outcome.written(lafp.interval))
    coverage = _coverage(results, lafp)
    modes = "" if coverage is None else f" (mode coverage {coverage:.2f})"
    episodes = counted(lafp.subject.n, "episode")
    seeds = f" of each of {len(lafp.per_seed)} seeds" if len(lafp.per_seed) > 1 else ""
    return [
        f"{named(lafp.subject)} {does} over {episodes}{seeds}{modes}",
        *(text for other in others if (text := _against(results, lafp, other))),
    ]


def sentence(lines: Sequence[str]) -> str:
    """Joins a headline's lines to one paragraph."""
    if lines[0].endswith("."):
        return " ".join(lines)
    first, *others = lines
    return f"{first}: {'; '.join(others)}." if others else f"{first}."


def headline_of_latents(
    results: Results, views: LatentViews | None, lam: Mapping[str, Any]
) -> list[str]:
    """Says what the latent actions hold: the headline of a run without rollouts.

    Args:
        results: Results of one run.
        views: The numbers of ``write_latent_views``.
        lam: Summary of the LAM's stage.
    """
    probes = results.of_variant(results.variants[0], "probe_r2")
    lines = []
    if (subject := subject_of(probes)) is not None:
        low, high = probes[subject].subject.low, probes[subject].subject.high
        controls = {name: group.value for name, group in probes.items() if name in PROBE_CONTROLS}
        gains = [
            group.interval.low
            for name in PROBE_CONTROLS
            for group in results.of_metric(f"probe_gain_over_{name}")
        ]
        gain_low = min(gains, default=None)
        num = lam.get("probe/num_episodes")
        lines.append(
            probe_finding(
                probes[subject].value,
                low,
                high,
                controls,
                num,
                gain_low=gain_low,
                what="z" if subject == LAM else "the features of both frames",
            )
        )
    return [*lines, *(view_findings(views) if views else [])]


def headline_of_probes(results: Results) -> list[str]:
    """Says which variants' latent actions hold the most: the headline of a study of probes alone.

    Returns:
        Sentences about each setting; none where methods were rolled out.
    """
    if any(policies(results, variant, results.outcome) for variant in results.variants):
        return []
    lines = []
    for setting, variants in results.settings.items():
        found = {
            name or "z": groups["lam"]
            for name, variant in variants.items()
            if "lam" in (groups := results.of_variant(variant, "probe_r2"))
        }
        first, *others = [*_best_probe(found), *_above_untrained(results, found)] or [""]
        lines += [f"{setting}: {first}" if setting else first, *others] if first else []
    return lines


def warnings(results: Results, views: LatentViews | None, lam: Mapping[str, Any]) -> list[Note]:
    """Warns in plain words of a LAM that holds nothing, or whose worth is not known.

    Args:
        results: Results of one run.
        views: The numbers of ``write_latent_views``.
        lam: Summary of the LAM's stage, with what ``data_remarks`` and ``over_training`` say.
    """
    signs = []
    codebook = views.codebook if views else None
    if views and views.is_collapsed:
        signs.append(CONSTANT)
    elif codebook and codebook["perplexity"] < DEAD_PERPLEXITY:
        signs.append(DEAD_CODEBOOK)
    probes = results.of_variant(results.variants[0], "probe_r2")
    latent, embedding = probes.get("lam"), probes.get("embedding")
    is_judged = not signs and not lam.get("few_episodes")
    if is_judged and latent and embedding:
        gain = results.of_variant(results.variants[0], "probe_gain_over_embedding").get("lam")
        # The gain compares the same episodes, so it is sharper than two intervals side by side.
        low = latent.interval.low - embedding.interval.high
        if (gain.interval.low if gain else low) <= 0:
            signs.append(not_above_embedding(latent.value, embedding.value))
    signs += [text[0].upper() + text[1:] for text in (*not_predicting(lam), *lam_signs(lam))]
    remarks = ("little_motion", "no_probe", "few_episodes")  # of ``data_remarks``
    signs += [lam[remark] for remark in remarks if lam.get(remark)]
    return [Note(level="warning", text=text) for text in signs]


def _best_probe(found: Mapping[str, Group]) -> list[str]:
    """Names the variant with the highest R², and compares it with the next one."""
    if not found:
        return []
    number = METRICS["probe_r2"].number
    (name, best), *others = sorted(found.items(), key=lambda item: -item[1].value)
    if not others:
        return [f"{name} has probe R² {best.interval.written(number)}."]
    text = f"{name} has the highest probe R² of {len(found)} variants, "
    text += f"{best.interval.written(number)}"
    next_name, next_best = others[0]
    if (gain := best.difference(next_best)) is None:
        return [f"{text}; the next is {next_name} with {next_best.interval.written(number)}."]
    verdict = "it is better" if gain.low > 0 else "these seeds do not tell the two apart"
    return [f"{text}; {gain.written('{:+z.2f}'.format)} over {next_name}, the next: {verdict}."]


def _above_untrained(results: Results, found: Mapping[str, Group]) -> list[str]:
    """Says which variants hold more than an untrained model, as differences on equal episodes."""
    gains = {g.subject.key: g.interval for g in results.of_metric("probe_gain_over_random_lam")}
    is_above = {
        name: gain.low > 0
        for name, probe in found.items()
        if (gain := gains.get(probe.subject.key)) and gain.num_values > 1
    }
    texts = {
        "Above their untrained controls": [name for name in is_above if is_above[name]],
        "Not above them, or not by more than the interval": [
            n for n in is_above if not is_above[n]
        ],
    }
    return [f"{text}: {', '.join(names)}." for text, names in texts.items() if names]


def best_run(results: Results) -> dict[str, str]:
    """Names the run with the best outcome, and says what it reached; empty without rollouts."""
    if (best := results.best(results.outcome)) is None:
        return {}
    uri, row = best
    reached = OUTCOMES[row.metric].number(row.value)
    title = METRICS[row.metric].title.partition(",")[0].lower()
    labels = f" with {results.labels_in_words(row.label_fraction or 0)}"
    return {"best_run": uri, "best": f"{title} {reached}{labels}"}


def evaluation_findings(results: Results, views: LatentViews) -> list[str]:
    """Sentences for the end of the job that evaluates one run."""
    return [*_rollouts(results), *view_findings(views)]


def view_findings(views: LatentViews) -> list[str]:
    """Says how wide z is spread, and whether the forward model needs the right latent action."""
    if views.is_collapsed:
        return ["Bad: the latent actions are constant: every frame pair has the same."]
    held_out = "held-out" if views.split == "val" else "training"
    lines = [
        f"The latent actions of {counted(views.num_pairs, 'frame pair')} of {held_out} clips "
        f"spread over {views.effective_rank:.1f} effective dimensions of "
        f"{views.latent_action_dim}."
    ]
    error, wrong, copy = views.prediction_error, views.wrong_latent_error, views.copy_error
    if error is None or wrong is None or copy is None or error <= 0:
        return lines
    less = f"{percent(1 - error / copy)} less" if error < copy else "more"
    text = (
        f"the next frame of these clips is predicted with {less} squared error than by assuming "
        f"no change; with the latent action of another pair the error is {wrong / error:.2f} times "
        "as large"
    )
    if wrong > _MIN_HARM * error:
        return [*lines, f"Good: {text}, so the prediction uses z."]
    return [*lines, f"Bad: {text}, so the prediction hardly uses z."]


def _rollouts(results: Results) -> list[str]:
    variant, outcome = results.variants[0], OUTCOMES[results.outcome]
    groups = policies(results, variant, results.outcome)
    if not groups:
        return []
    episodes = counted(groups[0].subject.n, "episode")
    lines = [f"{outcome.title} over {episodes}, with 95 % intervals:"]
    ranked = sorted(groups, key=lambda group: -group.value)
    expert = results.of_variant(variant, results.outcome).get(DEMONSTRATOR)
    lines += [
        f"  {outcome.written(group.interval)}  {named(group.subject)}"
        for group in [*ranked, *([expert] if expert else [])]
    ]
    return [*lines, *_against_baseline(results, groups)]


def _against_baseline(results: Results, groups: Sequence[Group]) -> list[str]:
    """Writes the headline; without one, the best method against cloning."""
    if lines := headline(results, results.variants[0]):
        return lines
    baseline = next((g for g in groups if g.subject.method == BEHAVIOR_CLONING), None)
    baseline = baseline or better_cloning(groups)
    others = [g for g in groups if g is not baseline]
    if baseline is None or not others:
        return ["Not measured: a baseline (`train_bc`, or a cloning policy) to set this against."]
    method = max(others, key=lambda group: group.value)
    text = _against(results, method, baseline)
    return [f"{name_of(method.subject)}: {text}"] if text else []


def _coverage(results: Results, group: Group) -> float | None:
    """Finds a method's mode coverage: success alone would hide that it always goes one way."""
    found = results.of_metric("mode_coverage")
    return next((g.value for g in found if g.subject.key == group.subject.key), None)


def _against(results: Results, ours: Group, theirs: Group) -> str | None:
    """Writes the difference on the same episodes and its meaning; None without such episodes."""
    gain = results.gain(ours, theirs)
    if gain is None:
        return None
    outcome, coverage = OUTCOMES[results.outcome], _coverage(results, theirs)
    modes = "" if coverage is None else f", mode coverage {coverage:.2f}"
    return (
        f"{outcome.difference(gain)} over {named(theirs.subject)} "
        f"({outcome.written(theirs.interval)}{modes}): {_verdict(gain)}"
    )


def _verdict(gain: Interval) -> str:
    if gain.low > 0:
        return "it does better"
    return "it does worse" if gain.high < 0 else "these episodes do not tell the two apart"
