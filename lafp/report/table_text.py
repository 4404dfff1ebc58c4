"""Tables as Markdown and LaTeX, to be pasted into documents."""

import re
from collections.abc import Mapping, Sequence

from lafp import storage
from lafp.report.blocks import Section, Table
from lafp.report.headline import sentence

# Cells hold names of policies and variants, which may be anything, also commands of LaTeX.
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: rf"\{char}" for char in "%_&#${}"},
    "τₐ": r"$\tau_a$",
    "²": "$^2$",
    "\n": " ",
}
_IN_TEX = re.compile("|".join(map(re.escape, _TEX)))


def write_tables(
    uri: str, sections: Sequence[Section], headlines: Mapping[str, Sequence[str]]
) -> None:
    """Writes the tables of sections as Markdown and LaTeX: ``table.md`` and ``table.tex``.

    Args:
        uri: Folder of the run or study.
        sections: Sections of results.
        headlines: Variant -> what was found, which comes before the variant's tables.
    """
    markdown: list[str] = []
    latex: list[str] = []
    has_variants = any(section.id.startswith("variant-") for section in sections)
    if not has_variants:
        markdown += map(sentence, headlines.values())
    for section in sections:
        tables = [block for block in section.blocks if isinstance(block, Table)]
        markdown += [f"### {markdown_text(section.title)}"] if has_variants else []
        if has_variants and section.title in headlines:
            markdown.append(sentence(headlines[section.title]))
        markdown += map(markdown_table, tables)
        latex += map(latex_table, tables)
    storage.write_text(storage.join(uri, "table.md"), "\n\n".join(markdown) + "\n")
    storage.write_text(storage.join(uri, "table.tex"), "\n\n".join(latex) + "\n")


def markdown_text(text: object) -> str:
    """Escapes what would begin a column, a line or a tag of HTML, or be the target of a link."""
    escaped = str(text).replace("|", r"\|").replace("<", "&lt;").replace("](", r"]\(")
    return " ".join(escaped.splitlines())


def markdown_table(table: Table) -> str:
    """Writes the table as Markdown, without its caption."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines)


def latex_table(table: Table) -> str:
    """Writes the table without its caption, for the LaTeX package booktabs."""
    head, *rows = (
        " & ".join(_escaped(str(cell)) for cell in line) + r" \\"
        for line in (table.head, *table.rows)
    )
    columns = "l" + "c" * (len(table.head) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*lines, *rows, r"\bottomrule", r"\end{tabular}"])


def _escaped(text: str) -> str:
    return _IN_TEX.sub(lambda found: _TEX[found[0]], text)
