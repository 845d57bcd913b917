"""The commands of the `detector` program, one per file."""
