"""Scaling laws for routed language models: load runs, fit laws to their true optimum, and say what the fits mean.

    import fit

    runs = fit.load_runs("curves.csv.gz")
    result = fit.analyse(runs, fit.Options(laws=("bounded",))).result("S-Base", "bounded")
    print(result.coefficients["E_max"])

The names below are the ones to start from; each is loaded when it is first used, so that a command imports only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import InputError
    from fit.analysis import Analysis, Options, Point, Result, analyse
    from fit.epc import cutoff, effective_parameter_count
    from fit.errors import NotIdentifiedError
    from fit.intervals.bootstrap import Draws, Interval, interval, resample
    from fit.laws import CATALOGUE, Law, Shape, law_named, stack_features
    from fit.load.grid import canonical, dense, routers
    from fit.load.runs import Runs, load_runs
    from fit.solver.losses import Huber, Squared, SquaredLog
    from fit.solver.solve import Certificate, Fit, fit_law

_HOME = {
    "fit.analysis": ("Analysis", "Options", "Point", "Result", "analyse"),
    "fit.intervals.bootstrap": ("Draws", "Interval", "interval", "resample"),
    "fit.epc": ("cutoff", "effective_parameter_count"),
    "common.errors": ("InputError",),
    "fit.errors": ("NotIdentifiedError",),
    "fit.load.grid": ("canonical", "dense", "routers"),
    "fit.laws": ("CATALOGUE", "Law", "Shape", "law_named", "stack_features"),
    "fit.solver.losses": ("Huber", "Squared", "SquaredLog"),
    "fit.load.runs": ("Runs", "load_runs"),
    "fit.solver.solve": ("Certificate", "Fit", "fit_law"),
}

__all__ = [
    "CATALOGUE",
    "Analysis",
    "Certificate",
    "Draws",
    "Fit",
    "Huber",
    "InputError",
    "Interval",
    "Law",
    "NotIdentifiedError",
    "Options",
    "Point",
    "Result",
    "Runs",
    "Shape",
    "Squared",
    "SquaredLog",
    "analyse",
    "canonical",
    "cutoff",
    "dense",
    "effective_parameter_count",
    "fit_law",
    "interval",
    "law_named",
    "load_runs",
    "resample",
    "routers",
    "stack_features",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in (PEP 562)."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'fit' has no attribute {name!r}")
