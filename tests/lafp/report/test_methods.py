from lafp.evaluate.grouped import one_run
from lafp.evaluate.results import DEMONSTRATOR, Result, Subject
from lafp.report.methods import policies


def row(method, anchor_time=None, noise=None):
    subject = Subject(
        label=f"{method} {anchor_time}", method=method, anchor_time=anchor_time, noise=noise
    )
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
