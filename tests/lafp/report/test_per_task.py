from lafp.evaluate.rows.grouped import merged, one_run
from lafp.evaluate.rows.results import DEMONSTRATOR, Result, Subject
from lafp.report.blocks import NO_VALUE
from lafp.report.sections import per_task

BC = Subject(label="bc", method="latent_bc")
EXPERT = Subject(label=DEMONSTRATOR, method=DEMONSTRATOR)


def run_of(values: dict[tuple[str, str], float], seed: int = 0):
    by_label = {subject.label: subject for subject in (BC, EXPERT)}
    rows = [
        Result.of(by_label[label], metric, value, 10, low=value - 0.1, high=value)
        for (label, metric), value in values.items()
    ]
    return one_run(f"/runs/{seed}", rows, {}, seed=seed)


SHARES = {
    ("bc", "success"): 0.4,
    (DEMONSTRATOR, "success"): 1.0,
    (DEMONSTRATOR, "success_on_reach-v3"): 1.0,
    (DEMONSTRATOR, "success_on_push-v3"): 1.0,
    ("bc", "success_on_reach-v3"): 0.8,
}


def test_a_row_per_task_has_a_column_per_method_and_the_demonstrators_first():
    (table,) = per_task.section(run_of(SHARES), None).blocks
    assert table.head == ["Task", "Demonstrators", "Latent BC"]
    assert table.rows == [
        ["reach-v3", "100 % [90, 100]", "80 % [70, 80]"],
        ["push-v3", "100 % [90, 100]", NO_VALUE],
    ]
    assert "in 10 episodes each" in table.caption


def test_several_seeds_are_one_mean():
    second = {key: value - 0.2 for key, value in SHARES.items()}
    (table,) = per_task.section(merged([run_of(SHARES), run_of(second, seed=1)]), None).blocks
    assert table.rows[0][2].startswith("70 % [")


def test_a_variant_has_the_tasks_of_its_own_environment():
    one_task = one_run("/runs/1", [Result.of(BC, "success", 1.0, 10)], {}, variant="single")
    both = merged([run_of(SHARES), one_task])
    assert per_task.section(both, "single") is None and per_task.section(both, None) is not None


def test_an_environment_of_one_task_has_no_such_section():
    one = {key: value for key, value in SHARES.items() if key[1] == "success"}
    assert per_task.section(run_of(one), None) is None


def test_a_share_of_none_or_all_is_said_to_be_less_certain_than_it_looks():
    run = run_of({("bc", "success"): 0.0})
    rows = [*run.rows, Result.of(BC, "success_on_push-v3", 0.0, 10, low=0.0, high=0.0)]
    (table,) = per_task.section(one_run("/runs/0", rows, {}), None).blocks
    assert "the true share may still be 30" in table.caption
    (wide,) = per_task.section(run_of(SHARES), None).blocks
    assert "rule of three" not in wide.caption
