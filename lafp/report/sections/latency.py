"""Shows how long an action takes, if the machine was quiet while that was measured."""

import math

from lafp.evaluate.rows.grouped import MAX_DISTURBANCE, Results
from lafp.report.blocks import TIMES, Block, Note, Section, Table, Text, percent
from lafp.report.method_table import method_table
from lafp.report.methods import policies

_COLUMNS = ("latency_b1_ms", "latency_b1_ratio", "latency_b64_ms")


def section(results: Results, variant: str | None) -> Section | None:
    """Compares the time per action with cloning's; on a busy machine, only says why it does not."""
    disturbances = results.disturbance(variant)
    if not disturbances:
        return None
    blocks: list[Block] = [table for table in [_table(results, variant)] if table is not None]
    if blocks:
        text = (
            "The observation is encoded once per action; only the small head of the flow runs at "
            "every solver step. That is what keeps a flow policy close to cloning."
        )
        blocks.insert(0, Text(text=text))
    num_left_out = sum(not value <= MAX_DISTURBANCE for value in disturbances)
    if num_left_out:
        blocks.append(Note(text=_why(disturbances, num_left_out)))
    return Section(
        id="latency", short="Latency", title="How long does an action take?", blocks=blocks
    )


def _table(results: Results, variant: str | None) -> Table | None:
    groups = next(filter(None, (policies(results, variant, m) for m in _COLUMNS)), None)
    if groups is None:
        return None
    caption = (
        f"Median of {groups[0].subject.n} interleaved timings of one action, encoder and "
        "action decoder included, on this machine. The paper claims less than one extra BC, so a "
        f"ratio below 2 {TIMES}. Rows that differ in the action decoder alone do the same work: "
        "their spread is the noise of the timing."
    )
    return method_table(results, variant, groups, _COLUMNS, caption=caption)


def _why(disturbances: list[float], num_left_out: int) -> str:
    known = [value for value in disturbances if not math.isnan(value)]
    found = "how busy it was is not known"
    if known:
        found = f"other work disturbed the timings by up to {percent(max(known))}"
    return (
        f"{num_left_out} of {len(disturbances)} measurements of the time per action are left out, "
        f"as the machine was busy: {found}, and at most {percent(MAX_DISTURBANCE)} "
        "counts. To measure again on a quiet machine, delete `latency.json` and `summary.json` in "
        "the run's `evaluation` folder and evaluate the run alone."
    )
