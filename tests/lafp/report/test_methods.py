import pytest

from lafp.evaluate.rows.grouped import one_run
from lafp.evaluate.rows.results import DEMONSTRATOR, Result, Subject
from lafp.report.methods import name_of, policies
from lafp.report.sections.outcome import panel


def row(method, low=None, noise=None, high=None, **settings):
    high = low if high is None else high
    subject = Subject(
        label=f"{method} {low} {high} {settings}", method=method,
        anchor_low=low, anchor_high=high, noise=noise, **settings,
    )  # fmt: skip
    return Result.of(subject, "success", 0.5, n=10)


def test_every_policy_has_a_row_baselines_first_and_those_of_users_too():
    methods = [
        row("latent_mean_flow", 0.5, "fresh"),
        row("latent_flow", 1.0, "fresh"),
        row("latent_gaussian"),
        row(DEMONSTRATOR),
        row("latent_flow", 0.0, "fresh"),
        row("lam"),
        row("latent_bc"),
    ]
    groups = policies(one_run("/r", methods, {}), None, "success")
    shown = [(group.subject.method, group.subject.anchor_time) for group in groups]
    assert shown[0] == ("latent_bc", None)
    assert shown.index(("latent_flow", 0.0)) < shown.index(("latent_flow", 1.0))
    assert {method for method, _ in shown} == {
        "latent_bc", "latent_flow", "latent_mean_flow", "latent_gaussian"
    }  # fmt: skip


def test_a_range_of_anchors_leads_the_flow_policies_and_single_ones_follow_in_order():
    methods = [
        row("latent_flow_idm_head", noise="fresh"),
        row("latent_flow", 1.0, "fresh"),
        row("latent_flow", 0.0, "fresh"),
        row("latent_flow", 0.0, "fresh", 1.0),
        row("latent_bc_idm_head"),
    ]
    groups = policies(one_run("/r", methods, {}), None, "success")
    assert [plain(group.subject) for group in groups] == [
        "Latent BC, the LAM's action head",
        "LAFP (τₐ in [0, 1])",
        "Flow, no interpolation (τₐ = 0)",
        "Flow, decoder on IDM latents (τₐ = 1)",
        "Flow, the LAM's action head",
    ]


def test_a_chart_names_what_its_rows_differ_in():
    methods = [
        row("latent_bc", sample_actions=False),
        row("latent_bc", sample_actions=True),
        row("latent_flow", 0.5, "fresh", solver_steps=1),
        row("latent_flow", 0.5, "fresh", solver_steps=3),
        row("latent_flow", 0.5, "fresh", solver_steps=3, sample_actions=True),
        row("latent_flow", 0.5, "held", noise_hold_steps=4, solver_steps=3),
    ]
    titles = [
        dot.title.replace("\xa0", " ") for dot in panel(one_run("/r", methods, {}), None).rows
    ]
    assert sorted(titles) == [
        "LAFP (τₐ = 0.5), fresh noise, 1 step",
        "LAFP (τₐ = 0.5), fresh noise, 3 steps",
        "LAFP (τₐ = 0.5), fresh noise, 3 steps, sampled actions",
        "LAFP (τₐ = 0.5), held 4 noise, 3 steps",
        "Latent BC",
        "Latent BC, sampled actions",
    ]


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (row("latent_flow", 0.2, high=0.8), "LAFP (τₐ in [0.2, 0.8])"),
        (row("latent_flow", 0.5), "LAFP (τₐ = 0.5)"),
        (row("latent_flow", 0.0, high=1.0, anchor_steps="remaining"), "LAFP (τₐ in [0, 1])"),
        (row("latent_flow", 0, high=1, anchor_steps="one"), "LAFP (τₐ in [0, 1], one step)"),
        (row("latent_flow", 0, high=1, anchor_steps="all"), "LAFP (τₐ in [0, 1], all steps)"),
        (row("latent_flow_tuned", 0.0, high=1.0), "LAFP (τₐ in [0, 1]), fine-tuned"),
        (row("latent_bc_tuned", 0.0), "Latent BC, fine-tuned"),
    ],
)
def test_a_method_is_named_by_what_its_decoder_was_trained_on(subject, name):
    assert plain(subject) == name


def plain(subject):
    return name_of(subject).replace("\xa0", " ")
