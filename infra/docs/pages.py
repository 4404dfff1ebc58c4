"""Adds to the documentation's site what does not lie in docs/, for mkdocs.yml.

The README and other pages of the repository keep their places and their links, which GitHub
follows. Here they become pages of the site, and links between files of the repository become links
between pages. A linked file that is no page, such as an example, is copied. The reference is a page
of directives for each part of the public face, which mkdocstrings fills from the docstrings.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lafp.envs import ENVS
from lafp.objectives import OBJECTIVES
from lafp.policies import POLICIES

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "docs/README.md": "map.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "infra/README.md": "infra.md",
}
"""Page of the repository -> page of the site. The others are those in docs/."""
ORIGIN = {page: path for path, page in ELSEWHERE.items()}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")

REFERENCE = {
    "agent": ("Agent", "What a robot or a simulator talks to.", ["lafp.agent.Agent"]),
    "lam": (
        "Latent action model",
        "A finished model that infers latent actions from frames.",
        ["lafp.lam.load_lam", "lafp.lam.Lam"],
    ),
    "shards": (
        "Shards",
        "What preprocessing writes, and what reads it. `docs/shards.md` shows other readers.",
        [
            "lafp.data.shards.sets",
            "lafp.data.shards.format",
            "lafp.data.shards.reader",
            "lafp.data.order.clips",
        ],
    ),
    "objectives": (
        "Objectives",
        "How a latent action model is trained: `OBJECTIVES`.",
        ["lafp.objectives.base", *OBJECTIVES.modules()],
    ),
    "policies": (
        "Policies",
        "What predicts latent actions from one frame: `POLICIES`.",
        ["lafp.policies.base", *POLICIES.modules()],
    ),
    "environments": (
        "Environments",
        "Where policies act: `ENVS`.",
        ["lafp.envs.base", *ENVS.modules()],
    ),
    "types": ("Types", "What passes between the parts.", ["lafp.types", "lafp.config.registry"]),
}
"""Page of the reference -> title, first sentence, and the modules and classes that it shows."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere, the reference, and the files that pages link to."""
    readme = files.get_file_from_path("README.md")
    assert readme, "docs/README.md is missing"
    files.remove(readme)
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for name, (title, text, parts) in REFERENCE.items():
        directives = "\n\n".join(f"::: {part}" for part in parts)
        content = f"# {title}\n\n{text}\n\n{directives}\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    files.append(File.generated(config, "api/index.md", content=_contents()))
    for path in sorted(_linked_files(files)):
        files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    source = page.file.src_uri
    if source.startswith("api/"):
        return markdown
    origin = ORIGIN.get(source, f"docs/{source}")
    return LINK.sub(lambda found: _link(found[0], origin, source), markdown)


def _contents() -> str:
    lines = [f"- [{title}]({name}.md): {text}" for name, (title, text, _) in REFERENCE.items()]
    text = (
        "The public face of the library, from its docstrings. Commands and their config keys are "
    )
    text += "shown by `lafp COMMAND --help`."
    return "\n".join(["# Reference", "", text, "", *lines, ""])


def _linked_files(files: Files) -> set[str]:
    """Finds the files of the repository that pages link to and that are no pages."""
    found = set()
    for file in files.documentation_pages():
        if not file.src_uri.startswith("api/"):
            origin = ORIGIN.get(file.src_uri, f"docs/{file.src_uri}")
            targets = (_target(link, origin) for link in LINK.findall(file.content_string))
            found |= {target for target in targets if _is_copied(target)}
    return found


def _target(link: str, origin: str) -> str:
    """Returns the path in the repository that a link of the page ``origin`` leads to, or ""."""
    path = link.partition("#")[0]
    if not path or re.match(r"\w+:", path):
        return ""
    return os.path.normpath(PurePosixPath(origin).parent / path)


def _is_copied(target: str) -> bool:
    is_page = target in ELSEWHERE or target.startswith("docs/")
    return bool(target) and not is_page and (ROOT / target).is_file()


def _link(link: str, origin: str, source: str) -> str:
    target = _target(link, origin)
    if not target:
        return link
    page = ELSEWHERE.get(target) or target.removeprefix("docs/")
    if _is_copied(target):
        page = f"source/{target}"
    path = os.path.relpath(page, PurePosixPath(source).parent)
    return path + link[len(link.partition("#")[0]) :]
