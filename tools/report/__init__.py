"""The HTML report of `detector analyze`."""
