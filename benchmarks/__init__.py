"""Measurements, each a ratio against a peer or a limit in the same run: `uv run python -m benchmarks.NAME`."""
