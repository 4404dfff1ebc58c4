"""Lays out sections as one self-contained HTML page: of a run, a study or a comparison.

Images are data URIs and nothing is fetched, so the file can be mailed and opens offline.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lafp.report.blocks import Note, Section


def render_page(
    uri: str,
    *,
    title: str,
    kind: str,
    lead: str,
    sections: Sequence[Section],
    headlines: Mapping[str, Sequence[str]],
    warnings: Sequence[Note] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """Renders the page as HTML.

    Args:
        uri: Folder that the page is about.
        title: Title of the page.
        kind: What it reports: ``run``, ``study`` or ``comparison``.
        lead: First paragraph, below the title.
        sections: Parts of the page, in order.
        headlines: Subject of the lines ("" if it is clear) -> lines, the first in large type.
        warnings: Notes that stand above everything else.
        facts: Names and values of the run's facts.
    """
    environment = Environment(
        loader=PackageLoader("lafp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html.j2").render(
        title=title,
        kind=kind,
        uri=uri,
        version=version("lafp"),
        css=Markup(  # noqa: S704 - our own file
            files("lafp.report").joinpath("templates/report.css").read_text()
        ),
        lead=lead,
        facts=facts,
        headlines=headlines,
        warnings=warnings,
        sections=sections,
    )


def _code(text: str | Markup) -> Markup:
    """Marks `text` in backticks as code; everything else is escaped unless it is markup already."""
    escaped = str(escape(text))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704
