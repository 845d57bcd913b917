"""`detector docs [TOPIC]`: print the path of the documentation page on a topic, in this checkout.

This is the page of the site if it is built (`make docs`), else its source. Without a topic: the home page, all topics.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from detector.configs.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HELP = """\
usage: detector docs [TOPIC]

Prints the path of a page of the documentation.
  detector docs                   the home page, and all topics
  detector docs troubleshooting   the page of that name
"""


def page_paths(root: Path = ROOT) -> dict[str, Path]:
    """Return the page of each topic: HTML if the site is built, else Markdown.

    Raises ConfigError if `root` has no documentation, for example in an installed package.
    """
    sources = root / "docs"
    if not (sources / "index.md").is_file():
        raise ConfigError(f"{sources}: no documentation here; read docs/ in the source tree")
    built = root / "site"
    pages = built.rglob("*.html") if (built / "index.html").is_file() else sources.rglob("*.md")
    folder = built if (built / "index.html").is_file() else sources
    found: dict[str, Path] = {}
    for path in sorted(pages):
        name = path.relative_to(folder).with_suffix("").as_posix()
        topic = name.removesuffix("/index").removesuffix("/README").rpartition("/")[2]
        if topic != "404":
            found.setdefault(topic, path)
    return found


def find_page(topic: str, pages: dict[str, Path]) -> Path:
    """Return the page on a topic. Raises ConfigError that names the most similar topic."""
    wanted = topic.lower().replace(" ", "-")
    if wanted in pages:
        return pages[wanted]
    near = difflib.get_close_matches(wanted, pages, n=1, cutoff=0.5) or [name for name in pages if wanted in name]
    tip = f"did you mean {near[0]}?" if near else f"topics: {', '.join(pages)}"
    raise ConfigError(f"docs: no page called {topic!r}; {tip}")


def print_page(topic: str | None) -> None:
    """Print the path of a page; without a topic, print the home page's path and the list of topics."""
    pages = page_paths()
    print(find_page(topic or "index", pages))
    if topic is None:
        print("topics  " + " ".join(name for name in pages if name != "index"))
