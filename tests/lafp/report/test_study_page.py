"""Files that a study writes: tables, plot, rows and page."""

from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest

from lafp.evaluate.rows.grouped import Results, merged, one_run
from lafp.evaluate.rows.results import Result, Subject
from lafp.report.blocks import NO_VALUE
from lafp.report.study_page import write_study
from tests.browser import browsing, tables_cut_off
from tests.synthetic_results import LADDER, ladder, study_of, sweep

SHARES = {"latent_bc": 0.1, "naive": 0.4, "lafp": 0.9, "raw": 0.8}
SUBJECTS = {
    "latent_bc": Subject(label="latent_bc", method="latent_bc", variant="clean"),
    "naive": Subject(label="naive", method="latent_flow", anchor_low=0.0, anchor_high=0.0,
                     noise="fresh", solver_steps=4, variant="clean"),
    "lafp": Subject(label="lafp", method="latent_flow", anchor_low=0.0, anchor_high=1.0,
                    noise="fresh", solver_steps=4, variant="clean"),
    "raw": Subject(label="raw", method="latent_flow", anchor_low=1.0, anchor_high=1.0,
                   noise="fresh", solver_steps=4, variant="clean"),
}  # fmt: skip


def test_a_task_without_success_is_compared_by_its_return_and_the_probe_stands_beside_it(tmp_path):
    found = {"lafp": (0.6, "return_above_random"), "lam": (0.25, "probe_r2"),
             "embedding": (0.125, "probe_r2")}  # fmt: skip
    subject = replace(SUBJECTS["lafp"], variant=None)
    rows = [
        Result.of(replace(subject, label=label), metric, value, 10)
        for label, (value, metric) in found.items()
    ]
    rows[1] = replace(rows[1], low=0.2, high=0.3)
    write_study(str(tmp_path), "toy", one_run("/r", rows, {"lafp": np.full(10, 0.6)}))
    text = (tmp_path / "table.md").read_text()
    assert text.count("reaches 60 % [60, 60] of the way from the return of random actions") == 1
    assert "| Latent action z | 0.25 [0.20, 0.30] |" in text
    assert "| Control: the observation's embedding | 0.12 |" in text, "one value has no interval"


def test_variants_with_one_method_each_stand_in_one_table_and_one_chart(tmp_path):
    runs = []
    for variant, r2, value in (("lapo", 0.1, 0.2), ("laom", 0.3, 0.75)):
        bc = replace(SUBJECTS["latent_bc"], variant=variant, label="bc")
        lam = replace(bc, label="lam", method="lam")
        for seed in (0, 1):
            rows = [
                Result.of(bc, "return_above_random", value, 10),
                Result.of(lam, "probe_r2", r2, 10),
            ]
            uri, outcomes = f"/s/runs/{variant}-seed_{seed}", {"bc": np.full(10, value)}
            runs.append(one_run(uri, rows, outcomes, seed=seed))
    write_study(str(tmp_path), "distractors", merged(runs))
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2:] == [
        f"| lapo | 0.10 [0.10, 0.10] | {NO_VALUE} | 20 % [20, 20] |",
        "| laom | 0.30 [0.30, 0.30] | +0.20 [+0.20, +0.20] | 75 % [75, 75] |",
    ]
    assert (tmp_path / "plot.png").stat().st_size > 5000
    assert "All variants" in (tmp_path / "report.html").read_text()


def test_a_study_of_probes_alone_has_a_table_a_plot_and_a_headline(tmp_path):
    summary = write_study(str(tmp_path), "ladder", ladder())
    text = (tmp_path / "table.md").read_text()
    first, distractors, clean = text.strip().split("\n\n")
    assert first.startswith("distractors: laom_labels_20 has the highest probe R² of 14 variants, ")
    assert "over laom_masks_labels_5, the next: it is better." in first
    assert "Not above them, or not by more than the interval: labels_only_1, random_net" in first
    assert summary["findings"] == [f"ladder: {first}"]
    head, _, *rows = distractors.splitlines()
    assert head == (
        "| Variant, distractors | Labeled transitions | Probe R² of latent actions | Above lapo | "
        "Seen | Unseen | Exploration noise | Control: embedding | Control: untrained |"
    )
    cells = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[1:] for row in rows}
    assert list(cells) == list(LADDER)
    assert cells["lapo"][0] == "0" and cells["lapo"][2] == NO_VALUE
    num, r2, above, seen, unseen, noise, *controls = cells["laom_labels_20"]
    assert num == "9,980" and r2.startswith("0.75 [") and noise.startswith("0.68 [")
    # The seeds differ by 0.1, and so does R² of both variants.
    assert above == "+0.55 [+0.53, +0.57]" and r2 == "0.75 [0.63, 0.87]"
    assert (seen, unseen) == ("0.77", "0.65") and controls == ["0.10", "0.17 |"]
    assert "Unseen" not in clean and "+0.55 [+0.53, +0.57]" in clean
    assert (tmp_path / "plot.png").stat().st_size > 20_000
    page = unescape((tmp_path / "report.html").read_text())
    assert "<h2>All variants</h2>" in page and "distractors: laom_labels_20 has the" in page


def test_one_seed_of_probes_alone_is_told_without_differences_over_seeds(tmp_path):
    write_study(str(tmp_path), "ladder", ladder(("lapo", "laom"), num_seeds=1))
    text = (tmp_path / "table.md").read_text()
    assert "highest probe R² of 2 variants, 0.40 [0.36, 0.44]; the next is lapo with 0.15 [" in text
    assert "Above lapo" not in text and "Labeled transitions" not in text
    assert "| laom | 0.40 [0.36, 0.44] | 0.42 | 0.30 |" in text


def test_where_the_outcome_is_a_return_the_page_never_speaks_of_success(tmp_path):
    subject = replace(SUBJECTS["lafp"], variant=None)
    anchors = [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0)]
    subjects = [replace(subject, label=f"{a}", anchor_low=a[0], anchor_high=a[1]) for a in anchors]
    rows = [
        Result.of(subject, metric, 0.6, 10)
        for subject in subjects
        for metric in ("return", "return_above_random")
    ]
    outcomes = {row.label: np.full(10, row.value) for row in rows}
    write_study(str(tmp_path), "cheetah", one_run("/r", rows, outcomes))
    page = unescape((tmp_path / "report.html").read_text())
    assert "Return over where the solver starts when the action decoder is trained (τₐ)" in page
    assert "success" not in page.lower()


def test_a_return_of_its_own_stands_beside_success_and_random_actions_below_demonstrators(tmp_path):
    random = Subject(label="random", method="random")
    methods = {
        "demonstrator": (Subject(label="demonstrator", method="demonstrator"), 1.0, 1.0),
        "random": (random, 0.1, 0.0),
        "lafp": (replace(SUBJECTS["lafp"], variant=None), 0.4, 0.7),
        "latent_bc": (replace(SUBJECTS["latent_bc"], variant=None), 0.3, 0.55),
    }
    rows = [
        Result.of(subject, metric, value, 10, low=value - 0.05, high=value + 0.05)
        for subject, *values in methods.values()
        for metric, value in zip(("success", "return_above_random"), values, strict=True)
    ]
    outcomes = {label: np.full(10, success) for label, (_, success, _) in methods.items()}
    write_study(str(tmp_path), "miner", one_run("/r", rows, outcomes))
    text = (tmp_path / "table.md").read_text()
    assert "| Success | Return above random, % of demonstrators' |" in text
    assert "| 40 % [35, 45] | 70 % [65, 75] |" in text
    names = [line.split(" |")[0] for line in text.splitlines() if line.startswith("| ")]
    start = names.index("| Demonstrators")
    assert names[start + 1] == "| Random actions" and names.count("| Random actions") == 1


def test_where_demonstrators_earn_nothing_returns_are_compared_as_they_are(tmp_path):
    subject = replace(SUBJECTS["lafp"], variant=None)
    values = {"lafp": 3.5, "latent_bc": -1.25}
    subjects = {"lafp": subject, "latent_bc": replace(SUBJECTS["latent_bc"], variant=None)}
    rows = [
        Result.of(subjects[label], "return", value, 10, low=value - 1, high=value + 1)
        for label, value in values.items()
    ]
    outcomes = {label: np.linspace(v - 2, v + 2, 10) for label, v in values.items()}
    write_study(str(tmp_path), "bossfight", one_run("/r", rows, outcomes))
    text = (tmp_path / "table.md").read_text()
    assert "reaches a return of 3.5 [" in text and "+4.75 [+4.75, +4.75] over Latent BC" in text
    assert "| Latent BC |  |  | -1.25 [" in text and "%" not in text
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.fixture
def study() -> Results:
    return study_of(list(SUBJECTS.values()), SHARES)


def test_the_table_holds_every_method_with_its_seeds(study, tmp_path):
    write_study(str(tmp_path), "toy", study)
    lines = (tmp_path / "table.md").read_text().splitlines()
    (lafp,) = [line for line in lines if line.startswith("| LAFP")]
    assert "93 % [" in lafp
    assert lafp.endswith("| 90 92 95 |")
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(SHARES)
    latex = (tmp_path / "table.tex").read_text()
    assert latex.count(r"\\") == 1 + len(SHARES) and r"93 \% [" in latex


def test_the_study_is_written_as_table_plot_parquet_and_page(study, tmp_path):
    summary = write_study(str(tmp_path), "toy", study)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(tmp_path / "results.parquet").num_rows == len(study.rows)
    page = (tmp_path / "report.html").read_text()
    assert 'href="runs/clean-seed_0/report.html"' in page
    assert 'src="http' not in page
    (clean,) = (text for text in summary["findings"] if text.startswith("clean: "))
    assert "succeeds in 93 %" in clean and "+80 points" in clean and "+10 points" in clean


def test_timings_on_a_busy_machine_are_not_on_the_page_which_says_why(study, tmp_path):
    rows = [
        Result.of(SUBJECTS["latent_bc"], f"latency_b1_{name}", value, 20)
        for name, value in (("ms", 3.21), ("ratio", 0.6), ("disturbance", 0.4))
    ]
    busy = one_run("/s/runs/clean-seed_0", rows, {}, seed=0)
    write_study(str(tmp_path), "toy", merged([study, busy]))
    page = unescape((tmp_path / "report.html").read_text()).replace("\xa0", " ")
    assert "3.21" not in page and "0.60" not in page
    assert "the machine was busy: other work disturbed the timings by up to 40 %" in page


def test_several_variants_are_told_one_by_one_with_the_same_sections_as_a_run(study, tmp_path):
    noisy = [one_run(f"{u}-noisy", rows, {}, variant="noisy") for u, rows in study.by_run.items()]
    write_study(str(tmp_path), "toy", merged([study, *noisy]))
    page = (tmp_path / "report.html").read_text()
    for variant in ("clean", "noisy"):
        assert f'<section id="variant-{variant}">' in page
    assert page.count("<h3>How often does it succeed?</h3>") == 2
    tables = (tmp_path / "table.md").read_text()
    assert tables.index("### clean") < tables.index("### noisy")


def test_a_sweep_holds_every_cell_what_failed_and_what_was_shared(tmp_path):
    summary = write_study(
        str(tmp_path),
        "labels",
        sweep(),
        missing={"laom-labels_0.5": "its disk was full"},
        sharing={"train_lam": (2, 8)},
    )
    assert summary["best_run"].endswith("lapo-labels_1-seed_1")
    assert summary["best"] == "success 92 % with 1,000 labeled transitions (20 episodes)"
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].split("|")[1:4] == [
        " Success, % ",
        " 100 labeled transitions (2 episodes) ",
        " 1,000 labeled transitions (20 episodes) ",
    ]
    assert sum(line.startswith("| la") for line in table) == 2 and "51 [" in "".join(table)
    latex = (tmp_path / "table.tex").read_text()
    assert latex.count(r"\\") == 3 and "100 labeled transitions (2 episodes)" in latex
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 16
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "its disk was full" in page and "What the runs share" in page


def test_a_decoder_met_with_other_solver_steps_has_a_row_of_its_own(tmp_path):
    lafp = SUBJECTS["lafp"]
    methods = {
        "lafp": (lafp, 0.009),
        "one": (replace(lafp, label="one", solver_steps=1), 0.061),
        "held": (replace(lafp, label="held", noise="held", noise_hold_steps=4), 0.009),
    }
    rows = [
        Result.of(subject, metric, value, 10)
        for subject, value in methods.values()
        for metric in ("alignment_to_idm", "alignment_to_deployed")
    ]
    write_study(str(tmp_path), "toy", one_run("/s/runs/clean-seed_0", rows, {}))
    lines = (tmp_path / "table.md").read_text().splitlines()
    found = {line.rpartition("|")[0].rpartition("|")[2].strip() for line in lines[2:]}
    assert found == {"0.009", "0.061"} and len(lines) == 4


def over_two_tasks(
    models: dict[str, float], fractions: Sequence[float | None] = (None,), num_labels: int = 600
) -> Results:
    """Two tasks, the models with what they add to the success, shares of the labels, four seeds."""
    runs, axes = [], {}
    for task, ease in (("cheetah", 0.2), ("walker", 0.0)):
        for model, gain in models.items():
            variant = f"{model}-{task}" if model else task
            axes[variant] = (model, task) if model else (task,)
            for fraction, seed in product(fractions, range(4)):
                rows = [
                    Result.of(
                        Subject(label=label, method="latent_flow", anchor_low=tau, anchor_high=tau,
                                task=task, variant=variant),
                        "success", share + ease + gain + 0.1 * (fraction or 0) + 0.01 * seed, 40,
                    )
                    for label, tau, share in (("lafp", 0.5, 0.4), ("raw", 0.0, 0.1))
                ]  # fmt: skip
                about = {"seed": seed}
                if fraction is not None:
                    about |= {"label_fraction": fraction, "label_scope": "both",
                              "labeled_transitions": round(num_labels * fraction),
                              "labeled_episodes": round(10 * fraction)}  # fmt: skip
                runs.append(one_run(f"/{variant}-{fraction}-{seed}", rows, {}, **about))
    return replace(merged(runs), axes=axes)


def table_over_tasks(folder, results: Results) -> list[list[str]]:
    write_study(str(folder), "tasks", results)
    tables = (folder / "table.md").read_text().split("\n\n")
    (lines,) = (table.splitlines() for table in tables if "interquartile" in table)
    del lines[1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_study_of_several_tasks_compares_methods_over_all_of_them(tmp_path):
    results = over_two_tasks({"": 0.0})
    _, ours, raw = table_over_tasks(tmp_path / "two", results)
    assert ours[0].startswith("LAFP") and ours[2] == ""
    assert ours[1].startswith(("51 % [", "52 % ["))  # (0.42 + 0.43 + 0.6 + 0.61) / 4
    assert raw[2] == "0 % [0, 0]", "every run of raw is below every run of LAFP"
    one_task = {uri: rows for uri, rows in results.by_run.items() if "cheetah" in uri}
    write_study(str(tmp_path / "one"), "one", replace(results, by_run=one_task))
    assert "interquartile" not in (tmp_path / "one/table.md").read_text()


def test_variants_of_each_task_are_compared_over_tasks_without_the_task(tmp_path):
    head, *rows = table_over_tasks(tmp_path, over_two_tasks({"lapo": 0.0, "la-om": 0.05}))
    assert [row[0].partition(":")[0] for row in rows] == ["lapo", "lapo", "la-om", "la-om"]
    assert head[-1].startswith("Better than lapo: LAFP") and rows[2][-1] == "100 % [100, 100]"


def test_shares_of_the_labels_are_compared_over_tasks_each_with_its_own_reference(tmp_path):
    results = over_two_tasks({"lapo": 0.0, "laom": -0.2}, fractions=(0.1, 1.0))
    head, *rows = table_over_tasks(tmp_path, results)
    assert head[:2] == ["Method", "Labeled transitions"] and len(rows) == 2 * 2 * 2
    assert [row[1] for row in rows] == ["60 (1 episode)"] * 4 + ["600 (10 episodes)"] * 4
    assert [row[3] for row in rows] == ["", "0 % [0, 0]", "0 % [0, 0]", "0 % [0, 0]"] * 2
    assert "Success over the number of labels" in (tmp_path / "report.html").read_text()


def test_tasks_that_no_axis_tells_apart_are_not_compared(tmp_path):
    results = over_two_tasks({"lapo": 0.0, "laom": 0.05})
    write_study(str(tmp_path), "mixed", replace(results, axes={}))
    assert "interquartile" not in (tmp_path / "table.md").read_text()


def test_no_table_of_a_study_is_cut_off_in_a_window_of_1300_px(study, tmp_path):
    with browsing() as page:
        for name, results in {"study": study, "sweep": sweep(), "ladder": ladder()}.items():
            write_study(str(tmp_path / name), name, results)
            assert tables_cut_off(page, tmp_path / name / "report.html") == []
