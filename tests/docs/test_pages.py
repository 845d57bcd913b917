"""The documentation: generated pages are complete, every page is in the menu, links have targets."""

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml  # type: ignore[import-untyped]

from detector.configs import schema
from detector.configs.groups import GROUPS
from detector.tools import cli
from detector.tools.docs.commands_page import GUIDES, commands_page, listed_commands
from detector.tools.docs.settings_page import settings_of, settings_page
from detector.tools.docs.topics import find_page, page_paths
from detector.tools.docs.tutorial_pages import as_notebook, as_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = {
    "reference/settings.md",
    "reference/commands.md",
    "reference/operators.md",
    "contributing.md",
    "changelog.md",
    "tutorials/own_photographs.md",
}


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs makes them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


def text_of(path: Path) -> str | None:
    """Return the text of a link's target: a file of the repository, or a generated page."""
    if path.is_file():
        return path.read_text(errors="replace")
    name = path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else ""
    script = path.with_suffix(".py")
    if script.parent.name == "tutorials" and script.is_file():
        return as_page(script.read_text())
    return {"reference/settings.md": settings_page, "reference/commands.md": commands_page}.get(name, lambda: None)()


def test_every_setting_has_a_meaning() -> None:
    hints = get_type_hints(schema.Config)
    groups = {name: [hint] for name, hint in hints.items() if is_dataclass(hint)}
    groups |= {name: list(kinds.values()) for name, kinds in GROUPS.items()}
    settings = [setting for setting in settings_of(schema.Config, "") if setting.key not in groups]
    settings += [row for name, kinds in groups.items() for kind in kinds for row in settings_of(kind, f"{name}.")]
    assert len(settings) > 150
    assert not [setting.key for setting in settings if not setting.meaning]
    page = settings_page()
    assert not [setting.key for setting in settings if f"| `{setting.key}` |" not in page]


def test_every_command_is_described() -> None:
    known = {name for name, _, _ in listed_commands()}
    page = commands_page()
    assert {"train", "docs", "completion", "info"} <= known
    assert all(f"\n## {name}\n" in page for name in known)
    assert set(GUIDES) == known - {"docs"}, "every command has a guide; docs prints the guides"
    with pytest.raises(ValueError, match="no such command; known: ") as caught:
        cli._dispatch(["nonsense"])
    assert known == set(str(caught.value).partition("known: ")[2].split(", "))


def test_every_page_is_in_the_menu() -> None:
    # mkdocs.yml holds only plain values, no tags.
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def names(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [name for item in (entry.values() if isinstance(entry, dict) else entry) for name in names(item)]  # type: ignore[attr-defined]

    menu = names(config["nav"])
    assert len(menu) == len(set(menu))
    assert set(menu) == {path.relative_to(DOCS).as_posix() for path in PAGES} | GENERATED


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "ops" / "README.md"], ids=lambda path: path.name)
def test_links_have_targets(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        found = text_of(path)
        assert found is not None, f"{page.name}: {target}: no such file"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}: no such heading"


def test_pages_are_found_by_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = page_paths()
    assert find_page("troubleshooting", pages).stem == "troubleshooting"
    assert find_page("RoI pooling", pages).stem == "roi-pooling"
    with pytest.raises(ValueError, match="did you mean troubleshooting"):
        find_page("troubelshooting", pages)
    with pytest.raises(ValueError, match="read docs/ in the source tree"):
        page_paths(tmp_path)
    assert cli.run(["docs"]) == 0
    assert "index" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(("shell", "text"), [("bash", "complete "), ("zsh", "bashcompinit"), ("fish", "complete -c")])
def test_completion_scripts_are_printed(shell: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell]) == 0
    assert text in capsys.readouterr().out
    assert cli.run(["completion", "tcsh"]) == 2


def test_notebooks_match_their_scripts() -> None:
    scripts = sorted((DOCS / "tutorials").glob("*.py"))
    assert scripts
    for script in scripts:
        assert script.with_suffix(".ipynb").read_text() == as_notebook(script.read_text()), (
            f"run make notebooks: {script}"
        )


def test_the_text_of_a_script_is_read_from_comments() -> None:
    page = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n"
    assert as_page(page) == "# Title\n\ntext\n\n```python\nx = 1\n```\n"
    with pytest.raises(ValueError, match="expected comments in a markdown cell, got 'text'"):
        as_page("# %% [markdown]\ntext\n")
