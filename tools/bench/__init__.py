"""Benchmarks, and checks that run for minutes."""
