"""Sentences about a model of frame pairs that was evaluated: each number beside its control."""

from collections.abc import Mapping

from lafp.evaluate.latents.representations import LAM, PIXEL_DIFFERENCE, RANDOM_LAM, subject_of
from lafp.evaluate.rows.grouped import Group, Results
from lafp.objectives.health import MIN_JUDGED_EPISODES
from lafp.report.headline import headline_of_latents
from lafp.report.sections.lary import CLASS_PROBED
from lafp.report.training_findings import PROBE_CONTROLS

_SAME_COSINE = 0.5
_USES_CODES = 0.5

NO_SWAP = (
    "Not measured: z of one episode before two backgrounds. swapped_shards=FOLDER names shards of "
    "the same episodes before other ones."
)


def lam_evaluation_findings(
    results: Results, skipped: Mapping[str, str], num_episodes: int
) -> list[str]:
    """Says what z or an encoder holds, whether z acts like a displacement, and what to do next.

    Args:
        results: The rows of the evaluation.
        skipped: Name of a measurement that was left out -> the reason.
        num_episodes: Held-out episodes on which all was measured. Few of them settle nothing.
    """
    probe = headline_of_latents(results, None, {"probe/num_episodes": num_episodes})
    lines = [
        *probe,
        *_noise(results),
        _unseen_backgrounds(results),
        _swapped_backgrounds(results),
        *_algebra(results),
        *_s_pcfc(results),
        *_codebook(results),
        *_transfer(results),
        *skipped.values(),
        _next(probe) if LAM in _of(results, "probe_r2") else _NEXT_TO_ENCODER,
    ]
    return lines if num_episodes >= MIN_JUDGED_EPISODES else [_unsettled(line) for line in lines]


def _unsettled(line: str) -> str:
    verdict, colon, text = line.partition(": ")
    return f"Uncertain: {text}" if colon and verdict in ("Good", "Bad") else line


_NEXT_TO_ENCODER = (
    "Next: evaluate latent action models on the same shards. One is worth training if its z holds "
    "more than these frozen features, or as much in fewer dimensions."
)


def _what(subject: str) -> str:
    return "z" if subject == LAM else "the features of both frames"


def _of(results: Results, metric: str) -> dict[str, Group]:
    return results.of_variant(results.variants[0], metric)


def _noise(results: Results) -> list[str]:
    found = _of(results, "probe_r2_noise")
    if (subject := subject_of(found)) is None:
        return ["Not measured: the exploration noise alone. The shards do not tell it."]
    ours, others = found[subject], [found[name] for name in PROBE_CONTROLS if name in found]
    best = max(others, key=lambda group: group.value, default=None)
    what = _what(subject)
    text = f"of the exploration noise, which no state tells, the probe of {what} has R² "
    text += str(ours.interval)
    if best is None:
        return [f"{text[0].upper()}{text[1:]}."]
    is_above = ours.interval.low > max(0.0, best.interval.high)
    verdict = "Good" if is_above else "Uncertain" if ours.value > max(0.0, best.value) else "Bad"
    control = PROBE_CONTROLS[best.subject.label]
    return [f"{verdict}: {text}, the best control ({control}) {best.interval}."]


def _unseen_backgrounds(results: Results) -> str:
    found = {name: _of(results, f"probe_r2_{name}") for name in ("seen", "unseen")}
    subject = subject_of(found["seen"]) or LAM
    seen, unseen = (groups.get(subject) for groups in found.values())
    if seen is None or unseen is None:
        return (
            "Not measured: the probe before unseen backgrounds. The shards have no held-out "
            "episodes in a folder `unseen`, whose backgrounds differ from those of training."
        )
    lost = seen.interval.low > unseen.interval.high
    verdict = "Bad" if lost else "Good" if unseen.interval.low > 0 else "Uncertain"
    return (
        f"{verdict}: before unseen backgrounds the probe of {_what(subject)} has R² "
        f"{unseen.interval}, before seen ones {seen.interval}."
    )


def _swapped_backgrounds(results: Results) -> str:
    background, action = (_of(results, f"{name}_share") for name in ("background", "action"))
    if (subject := subject_of(background)) is None:
        return NO_SWAP
    ours, told = background[subject].interval, action[subject].interval
    pixels = background.get(PIXEL_DIFFERENCE)
    against = "" if pixels is None else f" (of the difference of the pixels: {pixels.interval})"
    is_good, is_bad = ours.high < told.low, ours.low > told.high
    verdict = "Good" if is_good else "Bad" if is_bad else "Uncertain"
    return (
        f"{verdict}: of the variance of {_what(subject)}, a share of {ours} comes from the "
        f"background{against}, and the true action tells {told}."
    )


def _algebra(results: Results) -> list[str]:
    lines = []
    for metric, words in (
        ("additivity_error", "z(a, b) + z(b, c) predicts z(a, c)"),
        ("reversal_error", "-z(a, b) predicts z(b, a)"),
    ):
        found = _of(results, metric)
        if LAM not in found:
            continue
        ours, random = found[LAM], found.get(RANDOM_LAM)
        against = "" if random is None else f", that of an untrained model {random.interval}"
        is_good = ours.interval.high < min(1.0, random.interval.low if random else 1.0)
        verdict = "Good" if is_good else "Bad" if ours.interval.low >= 1 else "Uncertain"
        lines.append(
            f"{verdict}: {words} with an error of {ours.interval} of its variance (0: exactly, "
            f"1: no better than its mean){against}."
        )
    return lines


def _s_pcfc(results: Results) -> list[str]:
    found, centered = _of(results, "s_pcfc"), _of(results, "s_pcfc_centered")
    if LAM not in found or LAM not in centered:
        return []
    ours, random = centered[LAM], centered.get(RANDOM_LAM)
    against = "" if random is None else f" (an untrained model: {random.interval})"
    is_low, is_high = ours.interval.high < 0, ours.interval.low > _SAME_COSINE
    verdict = "Good" if is_low else "Bad" if is_high else "Uncertain"
    return [
        f"{verdict}: z from the past and z from the future to the same frame have a cosine of "
        f"{ours.interval}{against}. Near 1, z describes the frame; below 0, the motion. With the "
        f"constant that all latents share it is {found[LAM].interval} (S-PCFC as CoMo has it)."
    ]


def _codebook(results: Results) -> list[str]:
    usage, perplexity = (
        _of(results, f"codebook_{name}").get(LAM) for name in ("usage", "perplexity")
    )
    if usage is None or perplexity is None:
        return []
    verdict = "Good" if usage.value > _USES_CODES else "Uncertain"
    return [
        f"{verdict}: {100 * usage.value:.0f} % of the codes are used on held-out transitions; they "
        f"are as varied as {perplexity.value:.1f} codes that are used equally often."
    ]


def _transfer(results: Results) -> list[str]:
    own, other = (_of(results, f"transfer_error{name}").get(LAM) for name in ("_own", ""))
    if own is None or other is None:
        return []
    verdict = (
        "Good" if other.interval.high < 1 else "Bad" if other.interval.low >= 1 else ("Uncertain")
    )
    return [
        f"{verdict}: z that the forward model applies to a frame of another clip is inferred again "
        f"with an error of {other.interval} of its variance (its own frame: {own.interval}; 1: "
        "nothing of z is found again)."
    ]


def _next(probe: list[str]) -> str:
    if probe and probe[0].startswith("Good"):
        return "Next: train a policy on it, or compare it with another LAM by `results.parquet`."
    if probe and probe[0].startswith("Uncertain"):
        return "Next: measure it on more held-out episodes before a policy is trained on it."
    return (
        "Next: no policy yet. Supervise the LAM with a few labels (supervision.weight), give it "
        "pairs with more motion (window.max_offset_steps, clip.fps), or train it longer."
    )


def lary_findings(results: Results) -> list[str]:
    """Says how well LARY's attentive probe names the classes of clips; empty if unmeasured."""
    found = _of(results, "lary_accuracy")
    if LAM not in found:
        return []
    ours = found[LAM]
    best = max((found[name] for name in found if name != LAM), key=lambda group: group.value)
    is_good = ours.interval.low > best.interval.high
    is_bad = ours.interval.high < best.interval.low
    verdict = "Good" if is_good else "Bad" if is_bad else "Uncertain"
    control = CLASS_PROBED[best.subject.label].removeprefix("Control: ")
    return [
        f"{verdict}: LARY's attentive probe of z names the class of the action of "
        f"{ours.interval.in_percent()} of {ours.subject.n:,} clips; the best control ({control}) "
        f"{best.interval.in_percent()}."
    ]


def skipped_parts(can_predict: bool, objective: str, dinov2: str | None) -> dict[str, str]:
    """Says which measurements are left out, and why."""
    reasons = {}
    if not can_predict:
        reasons["transfer"] = (
            f"Not measured: z on frames of other clips. The objective {objective} predicts "
            "embeddings, not pixels."
        )
    if dinov2 is None:
        reasons["dinov2"] = (
            "Not measured: the difference of DINOv2 features. dinov2=FOLDER names their weights."
        )
    return reasons
