"""Independent references, made by committed scripts with fixed seeds: simulated curves with a known law, and an oracle's outputs."""

from importlib.resources import files
from pathlib import Path


def simulated_curves() -> Path:
    """Path of the embedded simulated runs (see `golden.simulate`), in the release's columns plus `simulated`."""
    return Path(str(files(__name__) / "simulated_curves.csv"))
