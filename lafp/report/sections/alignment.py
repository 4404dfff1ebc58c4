"""Shows on which latents each action decoder was trained, and its errors on them."""

from lafp.evaluate.rows.grouped import Group, Results
from lafp.report.blocks import Section, Text
from lafp.report.method_table import method_table
from lafp.report.methods import policies

_COLUMNS = (
    "alignment_to_idm",
    "alignment_to_deployed",
    "action_mse_on_idm",
    "action_mse_on_deployed",
    "action_accuracy_on_idm",
    "action_accuracy_on_deployed",
)


def section(results: Results, variant: str | None) -> Section | None:
    """Distances and errors, one row per decoder; None where they were not measured."""
    decoders = _one_per_decoder(policies(results, variant, "alignment_to_idm"))
    if not decoders:
        return None
    text = Text(
        text="An action decoder turns latent actions into true ones. It must meet two demands at "
        "once: see in training what it will see at deployment, which are the policy's own latent "
        "actions, and see each of them beside the action that belongs to it. Trained on free "
        "samples of the policy (τₐ = 0) it sees the right latents, but where the demonstrator went "
        "left and the sample says right, the pair is wrong. Trained on the latents that the latent "
        "action model infers (IDM latents, τₐ = 1) the pairs are right, but these latents are not "
        "the policy's. Interpolation (each sample starts at its own τₐ) lies between."
    )
    caption = (
        "Distance: energy distance of the latents that the decoder was trained on from IDM "
        "latents, and from those that the policy samples at deployment (0 = the same "
        "distribution; latents standardized). Action MSE: the decoder's mean squared error, in "
        "[-1, 1] action units. On IDM latents it shows whether the pairs were right; on deployed "
        "ones every decoder also pays where the policy takes another way than the demonstrator. "
        f"{decoders[0].subject.n:,} held-out labeled transitions."
    )
    table = method_table(
        results,
        variant,
        decoders,
        _COLUMNS,
        caption=caption,
        heading="Action decoder",
        settings=["Steps"],
    )
    return Section(
        id="alignment",
        short="Alignment",
        title="Why: what were the action decoders trained on?",
        blocks=[text, table],
    )


def _one_per_decoder(groups: list[Group]) -> list[Group]:
    """Keeps one method per decoder: methods that differ only in their noise share its values.

    With another number of solver steps the policy samples other latents.
    """
    first: dict[tuple[object, ...], Group] = {}
    for group in groups:
        subject = group.subject
        decoder = (subject.method, subject.anchors, subject.anchor_steps)
        first.setdefault((*decoder, subject.solver_steps), group)
    return list(first.values())
