"""Sections of a Markdown page that commands write, between markers; the rest is by hand."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.evaluate.rows.results import Result, outcome_metric, read_results
from lafp.runs.progress import duration
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import counted


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command that was typed, without storage and run name, which say nothing of a result."""

    job: str
    config: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", "-m", f"ray_jobs.{self.job}", self.config, *self.overrides])


def publish(page: str, folder: str, *, name: str, note: str, command: Command, facts: str) -> None:
    """Writes what a study found into its section of a page.

    Plot and rows are copied beside the page, to ``results/<name>.png`` and ``.parquet``.

    Args:
        page: Markdown file, made where it is missing.
        folder: The study's folder, with ``table.md``, ``plot.png`` and ``results.parquet``.
        name: Name of the study, which the section and the files get too.
        note: The section's first line; none where it is empty.
        command: What made it. Its overrides stand at the section's beginning, so that a run of less
            than its config says is known as one.
        facts: The text of ``facts_of``.

    Raises:
        ConfigError: The page's markers of this section are not a pair.
    """
    parts = [f"## {name.replace('_', ' ').capitalize()}"]
    parts += [f"**{note}**"] if note else []
    if command.overrides:
        changed = " ".join(f"`{item}`" for item in command.overrides)
        parts.append(f"**Not as its config says, but with {changed}.**")
    rows = read_results(storage.join(folder, "results.parquet"))
    parts += [f"```bash\n{command}\n```", f"{_measured(rows)} {facts}"]
    images = storage.join(_folder_of(page), "results")
    for file, ending in (("plot.png", "png"), ("results.parquet", "parquet")):
        if storage.is_file(source := storage.join(folder, file)):
            storage.write_bytes(
                storage.join(images, f"{name}.{ending}"), storage.read_bytes(source)
            )
    parts.append(f"All rows: [results/{name}.parquet](results/{name}.parquet).")
    if storage.is_file(storage.join(folder, "plot.png")):
        parts.append(f"![Outcome of every method with intervals](results/{name}.png)")
    parts.append(storage.read_text(storage.join(folder, "table.md")).strip())
    write_section(page, name, "\n\n".join(parts))


def write_section(page: str, name: str, text: str) -> None:
    """Puts ``text`` between the markers of ``name``; at the end where the page has none.

    The page is replaced as a whole, and everything outside of the markers stays as it is.

    Raises:
        ConfigError: The markers are not one pair in their order, or ``text`` holds one.
    """
    begin, end = _markers(name)
    if begin in text or end in text:
        raise ConfigError(f"The section {name} must not hold its own markers.")
    head, tail = around_section(page, name)
    storage.write_text(page, f"{head}{begin}\n{text}\n{end}{tail}")


def around_section(page: str, name: str) -> tuple[str, str]:
    """Returns the text of a page before and after the section ``name``, which may be missing.

    Raises:
        ConfigError: The markers are not one pair in their order.
    """
    begin, end = _markers(name)
    before = storage.read_text(page) if storage.is_file(page) else ""
    if begin not in before and end not in before:
        return before.rstrip() + ("\n\n" if before.strip() else ""), "\n"
    head, _, rest = before.partition(begin)
    _, found, tail = rest.partition(end)
    if not found or begin in rest or end in tail:
        raise ConfigError(
            f"{page}: expected one '{begin}' and one '{end}' after it. Mend the markers, or delete "
            "both to have the section written at the end."
        )
    return head, tail


def _markers(name: str) -> tuple[str, str]:
    begin, end = (f"<!-- {word} {name}: written by its command -->" for word in ("begin", "end"))
    return begin, end


def facts_of(stages: Sequence[StageDir]) -> str:
    """Tells work, hardware and revision behind a study, from its stages, each once.

    Args:
        stages: The study's stages. Only complete ones count: those of a run that was stopped early
            may be begun or not even that, and no result comes from them.
    """
    stages = [stage for stage in stages if stage.is_complete()]
    work_s = sum(stage.summary().get("wall_s", 0.0) for stage in stages)
    found = [stage.provenance() for stage in stages]
    machines = " and ".join(dict.fromkeys(map(_machine, found)))
    revisions = dict.fromkeys(_short(begun.get("git_revision")) for begun in found)
    return (
        f"{counted(len(stages), 'stage')}, {duration(work_s)} in all, one after the other or side "
        f"by side, on {machines}. Revision {', '.join(revisions)}."
    )


def _measured(rows: Sequence[Result]) -> str:
    metric = outcome_metric(rows)
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    nums = sorted({row.n for row in rows if row.metric == metric})
    text = f"Seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    if nums:
        text += f", {' to '.join(map(str, dict.fromkeys((nums[0], nums[-1]))))} episodes per method"
        text += " and seed"
    text += "; in brackets 95 % intervals over seeds and episodes"
    return text + (", with one seed over episodes alone." if len(seeds) == 1 else ".")


def _machine(begun: Mapping[str, Any]) -> str:
    text = f"{begun.get('num_cpus')} cores ({begun.get('cpu_model') or 'model unknown'})"
    gpus = begun.get("gpus") or []
    return f"{text} and {len(gpus)} GPUs ({', '.join(dict.fromkeys(gpus))})" if gpus else text


def _short(revision: str | None) -> str:
    if revision is None:
        return "unknown"
    commit, plus, dirty = revision.partition("+")
    return commit[:8] + plus + dirty


def _folder_of(page: str) -> str:
    return page.rpartition("/")[0] or "."
