"""The documentation site: its generated pages, and the hooks for mkdocs."""
