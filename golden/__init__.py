"""References that others are held to: small runs that were really trained, simulated curves with a known law, and an oracle's outputs."""

from importlib.resources import files
from pathlib import Path


def small_curves() -> Path:
    """Path of the embedded runs: small ones, trained by `cli.py sweep golden/grid.toml` (see `golden/README.md`)."""
    return _path("small_curves.csv")


def small_variants() -> Path:
    """Path of the same routers' runs in other forms (`golden/variants.toml`), which `variant` names."""
    return _path("small_variants.csv")


def small_choices() -> Path:
    """Path of what the choices of the trained routers say of the text, written by `benchmarks.small_runs.choices`."""
    return _path("small_choices.json")


def small_standing() -> Path:
    """Path of what choices are worth that stand from the first step, written by `benchmarks.small_runs.standing`."""
    return _path("small_standing.json")


def small_dense() -> Path:
    """Path of dense runs of several lengths (`golden/dense.toml`), which `variant` names."""
    return _path("small_dense.csv")


def small_tokens() -> Path:
    """Path of dense and S-BASE runs of three lengths (`golden/tokens.toml`), which `variant` names."""
    return _path("small_tokens.csv")


def simulated_curves() -> Path:
    """Path of the simulated runs (see `golden.simulate`), in the release's columns plus `simulated`."""
    return _path("simulated_curves.csv")


def public_points() -> Path:
    """Path of losses that others published, with their sources."""
    return _path("public_points.toml")


def _path(name: str) -> Path:
    return Path(str(files(__name__) / name))
