"""The HTML pages of `detector analyze` and `detector inspect`."""
