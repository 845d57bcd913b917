"""The documentation site: its generated pages, and the hook by which mkdocs builds them."""
