"""The commands of the `detector` program, one a file."""
