"""Hooks that mkdocs calls: they add the generated pages, and the dark version of each figure."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from detector.tools.docs.commands_page import commands_page
from detector.tools.docs.settings_page import settings_page
from detector.tools.docs.tutorial_pages import as_page

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository outside docs/ that are also pages of the site.
PAGES = {
    "ops/README.md": "reference/operators.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages generated from the program, and the pages from other folders of the repository."""
    pages = {"reference/settings.md": settings_page(), "reference/commands.md": commands_page()}
    for script in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        pages[f"tutorials/{script.stem}.md"] = as_page(script.read_text(encoding="utf-8"))
    for source, name in PAGES.items():
        pages[name] = re.sub(r"\]\((\.\./)?docs/", "](../" if "/" in name else "](", (ROOT / source).read_text())
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files of the repository by links to their pages, and add the dark version of each figure."""
    up = "../" * page.file.src_uri.count("/")
    for source, name in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(source)}", f"]({up}{name}", markdown)
    return re.sub(r"!\[([^\]]*)\]\(([^)\s]*figures/[^)\s]+)\.png\)", _light_and_dark, markdown)


def _light_and_dark(found: re.Match[str]) -> str:
    text, path = found[1], found[2]
    if not (ROOT / "docs" / "figures" / f"{Path(path).name}_dark.png").is_file():
        return found[0]
    return f"![{text}]({path}.png#only-light)![{text}]({path}_dark.png#only-dark)"
