"""Why interpolation works: what each decoder was trained on, and what it makes of it."""

from collections.abc import Sequence

from lafp.evaluate.results import Result
from lafp.report.blocks import NO_VALUE, Section, Table, Text
from lafp.report.sections.result import is_lafp, name_of, of_metric

_COLUMNS = {
    "alignment_to_idm": "From IDM latents",
    "alignment_to_deployed": "From deployed latents",
    "action_mse_on_idm": "Error on IDM latents",
    "action_mse_on_deployed": "Error on deployed latents",
    "action_accuracy_on_idm": "Accuracy on IDM latents",
    "action_accuracy_on_deployed": "Accuracy on deployed latents",
}


def section(rows: Sequence[Result]) -> Section | None:
    """Distances and errors, one row per decoder; None for runs that did not measure them."""
    decoders = _one_per_decoder(of_metric(rows, "alignment_to_idm"))
    if not decoders:
        return None
    values = {(row.label, row.metric): row.value for row in rows}
    metrics = [m for m in _COLUMNS if any((row.label, m) in values for row in decoders)]
    body = [
        [name_of(row), *(_cell(values.get((row.label, metric))) for metric in metrics)]
        for row in decoders
    ]
    text = Text(
        text="An action decoder must meet two demands at once: see in training what it will see "
        "at deployment, which are the policy's own latent actions, and see each of them beside "
        "the action that belongs to it. Trained on free samples (τₐ = 0) it sees the right "
        "latents, but where the demonstrator went left and the sample says right, the pair is "
        "wrong. Trained on raw IDM latents (τₐ = 1) the pairs are right, but these latents are "
        "not the policy's. Interpolation lies between."
    )
    table = Table(
        head=["Decoder trained on", *(_COLUMNS[metric] for metric in metrics)],
        rows=body,
        emphasized=frozenset(i for i, row in enumerate(decoders) if is_lafp(row)),
        caption="First two columns: energy distance of the decoder's training latents from what "
        "the latent action model infers and from what the policy samples at deployment (0 = the "
        "same distribution; latents standardized). Then the decoder's mean squared error, in "
        "[-1, 1] action units: on IDM latents it shows whether the pairs were right; on deployed "
        "ones every decoder also pays where the policy takes another way than the demonstrator. "
        f"{decoders[0].n} held-out labeled transitions.",
    )
    return Section(
        id="alignment", short="Alignment", title="Why does it work?", blocks=[text, table]
    )


def _one_per_decoder(rows: Sequence[Result]) -> list[Result]:
    """Methods that differ in their noise alone share a decoder, and all of these values."""
    first: dict[tuple[object, ...], Result] = {}
    for row in rows:
        first.setdefault((row.method, row.anchor_time, row.solver_steps, row.value), row)
    return list(first.values())


def _cell(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"
