"""Weights of other programs, under this project's names."""
