"""Benchmarks, and checks that take minutes."""
