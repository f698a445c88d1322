"""Benchmarks: `python -m tests.benchmarks [NAME ...] [--json FILE]`. Timings live here and never decide a test."""
