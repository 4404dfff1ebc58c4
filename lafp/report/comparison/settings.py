"""Shows what the runs were asked for and with what they were made, where that differs."""

from collections.abc import Iterator, Mapping

from lafp.report.blocks import NO_VALUE, Block, Section, Table, Text
from lafp.report.comparison.compared import Part, Runs, all_stages, common_stages
from lafp.runs.progress import duration
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import counted
from lafp.storage import strict_json

MAX_KEYS, MAX_KEYS_IN_TERMINAL, MAX_CHARACTERS = 200, 8, 90
_HARDWARE = ("python", "platform", "num_cpus", "cpu_model", "gpus")

Difference = tuple[str, str, list[str]]
"""Stage, key, and the value in each run."""


def stages_part(runs: Runs) -> Part:
    """Shows which stages each run has, whether they are complete, and how long they took."""
    rows = []
    for name in all_stages(runs):
        rows.append([name, *(_state(each.stages.get(name)) for each in runs)])
    folders = Table(
        head=["Run", "Folder"],
        rows=[[each.label, each.run.uri] for each in runs],
        num_text_columns=2,
    )
    table = Table(
        head=["Stage", *(each.label for each in runs)],
        rows=rows,
        caption="Wall-clock time of each stage's last start. Stages that some runs lack are not "
        "compared.",
    )
    section = Section(id="stages", short="Runs", title="What was run?", blocks=[folders, table])
    return Part(section, [f"stages in all: {', '.join(common_stages(runs))}"])


def _state(stage: StageDir | None) -> str:
    if stage is None:
        return NO_VALUE
    if not stage.is_complete():
        return "not finished"
    wall_s = stage.summary().get("wall_s")
    return "complete" if wall_s is None else duration(float(wall_s))


def configs_part(runs: Runs) -> Part:
    """Shows the keys of the configs, and the inputs, that differ between the runs."""
    found = [row for name in common_stages(runs) for row in _differences(runs, name)]
    table = Table(
        head=["Stage and key", *(each.label for each in runs)],
        rows=[[f"{stage} {key}", *map(_shortened, of)] for stage, key, of in found[:MAX_KEYS]],
        num_text_columns=1 + len(runs),
        caption=f"Keys that differ{_left_out(len(found), MAX_KEYS)}. Inputs are known by a hash "
        f"of their content; {NO_VALUE} stands where a run has no such key.",
    )
    same = Text(text="The configs and inputs of the common stages are equal.")
    section = Section(
        id="configs",
        short="Configs",
        title="What was asked for?",
        blocks=[table if found else same],
    )
    lines = [f"configs: {counted(len(found), 'key differs', 'keys differ')}"]
    for stage, key, values in found[:MAX_KEYS_IN_TERMINAL]:
        lines.append(f"  {stage} {key}: {' | '.join(map(_shortened, values))}")
    if len(found) > MAX_KEYS_IN_TERMINAL:
        lines.append(f"  and {len(found) - MAX_KEYS_IN_TERMINAL} more, on the page")
    return Part(section, lines)


def _left_out(num: int, shown: int) -> str:
    return f", the first {shown} of {num:,}" if num > shown else ""


def _differences(runs: Runs, name: str) -> Iterator[Difference]:
    stages = [each.stages[name] for each in runs]
    configs = [dict(_leaves(stage.config())) for stage in stages]
    inputs = [stage.provenance()["inputs"] for stage in stages]
    short = [{f"input {key}": str(value)[:12] for key, value in of.items()} for of in inputs]
    for each in (configs, short):
        for key in dict.fromkeys(key for of_run in each for key in of_run):
            values = [of_run.get(key, NO_VALUE) for of_run in each]
            if len(set(values)) > 1:
                yield name, key, values


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Yields the path and the text of each value that is no section."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{where}.{index}")
    else:
        yield where, value if isinstance(value, str) else strict_json.dumps(value)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:30]}…{text[31 - MAX_CHARACTERS :]}"


def versions_part(runs: Runs) -> Part:
    """Shows versions, code revision and hardware that differ, and names those that are equal."""
    found = [_versions(runs, number) for number in range(len(runs))]
    rows, equal = [], []
    for name in dict.fromkeys(name for of_run in found for name in of_run):
        values = [of_run.get(name, NO_VALUE) for of_run in found]
        if len(set(values)) > 1:
            rows.append([name, *values])
        elif values[0]:
            equal.append(f"{name} {values[0]}")
    table = Table(
        head=["", *(each.label for each in runs)], rows=rows, num_text_columns=1 + len(runs)
    )
    blocks: list[Block] = [table] if rows else []
    if equal:
        blocks.append(Text(text=f"Equal in all runs: {', '.join(equal)}."))
    section = Section(id="versions", short="Versions", title="With what?", blocks=blocks)
    lines = [f"  {name}: {' | '.join(map(_shortened, values))}" for name, *values in rows]
    return Part(section, [f"versions: {counted(len(rows), 'differs', 'differ')}", *lines])


def _versions(runs: Runs, number: int) -> dict[str, str]:
    """Returns name -> value of one run; several values if its stages differ."""
    values: dict[str, dict[str, None]] = {}
    for stage in runs[number].stages.values():
        recorded = stage.provenance()
        of_stage = {
            "code": str(recorded.get("git_revision") or "")[:10],
            **{name: recorded.get(name) for name in _HARDWARE},
            **(recorded.get("packages") or {}),
        }
        for name, value in of_stage.items():
            if value not in (None, "", []):
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                values.setdefault(name, {})[text] = None
    return {name: " and ".join(texts) for name, texts in values.items()}
