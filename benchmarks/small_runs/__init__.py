"""What the laws say of runs small enough for two cores: `docs/small_runs.md`, and what it is made from."""
