"""From curves files to runs: read, check, select, and say what was left out and why."""
