"""Tables for documents, with names that are commands there."""

from lafp.report.blocks import Table
from lafp.report.table_text import latex_table, markdown_table

HOSTILE = "a|b <script>x</script>\n# head [x](javascript:y) \\input{/etc/passwd} $x^2_a$ ~#&%"
TABLE = Table(head=["Method", "Value"], rows=[[HOSTILE, "93 % [90, 95]"], ["τₐ = 0", "R²"]])


def test_a_name_stays_in_its_cell_of_markdown():
    head, rule, hostile, plain = markdown_table(TABLE).splitlines()
    assert (head, rule, plain) == ("| Method | Value |", "| --- | --- |", "| τₐ = 0 | R² |")
    assert hostile == (
        r"| a\|b &lt;script>x&lt;/script> # head [x]\(javascript:y) \input{/etc/passwd} "
        r"$x^2_a$ ~#&% | 93 % [90, 95] |"
    )


def test_a_name_is_no_command_of_latex():
    rows = latex_table(TABLE).splitlines()[4:6]
    assert rows[0] == (
        r"a|b <script>x</script> \# head [x](javascript:y) \textbackslash{}input\{/etc/passwd\} "
        r"\$x\textasciicircum{}2\_a\$ \textasciitilde{}\#\&\% & 93 \% [90, 95] \\"
    )
    assert rows[1] == r"$\tau_a$ = 0 & R$^2$ \\"
