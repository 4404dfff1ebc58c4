"""Tables as Markdown and LaTeX, to be pasted into documents."""

from lafp.report.blocks import Table

# Escapes come before the formulas, or the underscore inside ``\tau_a`` would be escaped too.
_TEX = (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("τₐ", r"$\tau_a$"), ("²", "$^2$"))


def markdown_table(table: Table) -> str:
    """Writes the table as Markdown, without its caption."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


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
    for plain, tex in _TEX:
        text = text.replace(plain, tex)
    return text
