"""Runs the Python examples of a documentation page as they stand there."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def run_example(page: str, section: str, paths: dict[str, str]) -> dict[str, Any]:
    """Runs the one example of a section.

    Args:
        page: File name of the page.
        section: Its heading.
        paths: Path in the example -> what stands for it.

    Returns:
        The names that the example leaves.
    """
    text = (DOCS / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for path, real in paths.items():
        assert path in code, f"The example of {section} in {page} does not name {path}."
        code = code.replace(path, real)
    names: dict[str, Any] = {}
    exec(compile(code, f"{page}: {section}", "exec"), names)
    return names
