"""Docstrings, comments and pages begin with a plain sentence: a subject or a verb comes first."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_readme import PAGES
from tests.test_architecture import PACKAGES, ROOT, python_files

SOURCES = [path for package in PACKAGES for path in python_files(package)]
OPENING = re.compile(r"(Of|What|Whatever|Where|As|Those|The same|It)\b")
DOCSTRING_OPENING = re.compile(rf"{OPENING.pattern}|All\b")
"""A docstring says what one thing is or does, so "All ..." has no verb there."""
LIST_ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s+")

Line = tuple[int, str]
"""A line's number and its text."""


def docstrings(source: str) -> Iterator[Line]:
    """Yields the first lines of docstrings, also of those below fields and constants."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text.strip().partition("\n")[0]


def comments(source: str) -> Iterator[Line]:
    """Yields the first lines of comments; a comment may have several lines."""
    last = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (row, column), is_alone = token.start, not token.line[: token.start[1]].strip()
            if not (is_alone and last == (row - 1, column)):
                yield row, token.string.lstrip("#: ")
            last = (row, column) if is_alone else (0, 0)


def paragraphs(page: str) -> Iterator[Line]:
    """Yields the first lines of a page's paragraphs and list items, without their markup."""
    is_code, begins = False, True
    for row, line in enumerate(page.splitlines(), start=1):
        is_fence = line.lstrip().startswith("```")
        is_code ^= is_fence
        if not is_fence and not is_code and (begins or LIST_ITEM.match(line)):
            yield row, LIST_ITEM.sub("", line, count=1).lstrip("*_`> ")
        begins = is_fence or not line.strip() or line.startswith("#")


def forbidden(path: Path, lines: Iterator[Line], opening: re.Pattern[str]) -> list[str]:
    where = path.relative_to(ROOT)
    return [f"{where}:{row}: {line}" for row, line in lines if opening.match(line)]


def test_docstrings_begin_with_a_subject_or_a_verb():
    found = [
        hit
        for path in SOURCES
        for hit in forbidden(path, docstrings(path.read_text()), DOCSTRING_OPENING)
    ]
    assert not found, "Begin with a plain sentence:\n" + "\n".join(found)


def test_comments_begin_with_a_subject_or_a_verb():
    found = [
        hit for path in SOURCES for hit in forbidden(path, comments(path.read_text()), OPENING)
    ]
    assert not found, "Begin with a plain sentence:\n" + "\n".join(found)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_paragraphs_of_a_page_begin_with_a_subject_or_a_verb(page):
    found = forbidden(page, paragraphs(page.read_text()), OPENING)
    assert not found, "Begin with a plain sentence:\n" + "\n".join(found)


def test_first_words_are_found_below_code_and_headings_in_lists_and_in_comments_of_some_lines():
    page = "# What\nOf a\n\n```bash\nAs b\n\nAs c\n```\nIt d\nAs e\n- **Where** f\n\n| It |\n"
    assert [line for _, line in paragraphs(page) if OPENING.match(line)] == [
        "Of a",
        "It d",
        "Where** f",
    ]
    source = (
        "# One\n# As a\nx = 1  # Of b\n# It c\n\n# Where d\nif x:\n    # Those e\n    # What f\n"
    )
    assert [line for _, line in comments(source) if OPENING.match(line)] == [
        "Of b",
        "It c",
        "Where d",
        "Those e",
    ]
