"""Tables of runs: read, check, select, and say what was left out and why."""

from fit.runs.canonical import canonical, dense, routers
from fit.runs.derivations import with_columns
from fit.runs.fetch import fetch
from fit.runs.grid import DataWarning, SelectionStep, codes
from fit.runs.runs import Runs, load_runs
from fit.runs.schema import Source

__all__ = ["DataWarning", "Runs", "SelectionStep", "Source", "canonical", "codes"]
__all__ += ["dense", "fetch", "load_runs", "routers", "with_columns"]
