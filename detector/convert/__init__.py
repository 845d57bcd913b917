"""Converts weights of other programs to this project's names."""
