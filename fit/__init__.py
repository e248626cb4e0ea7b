"""Scaling laws for language models: load runs, fit laws to their true optimum, and say what the fits mean.

    import fit

    runs = fit.load_runs("curves.csv.gz")
    analysis = fit.analyse(runs)
    print(analysis.quoted, analysis.result("S-Base", analysis.quoted).predict(N=13e9, E=64))

The names below are the ones to start from; each is loaded when it is first used, so that a command imports only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import InputError
    from fit.analysis import Analysis, Options, Point, Result, analyse
    from fit.budget.allocate import Allocation, allocate
    from fit.budget.isoflop import IsoFLOP, compare_approaches, isoflop
    from fit.engine.losses import Loss, huber, squared, squared_log
    from fit.engine.shared import fit_shared
    from fit.engine.solve import Certificate, Fit, fit_law
    from fit.errors import NotIdentifiedError
    from fit.estimate import Estimate, Status
    from fit.laws import CATALOGUE, Law, Shape, law_named, stack_features
    from fit.literature import PublishedLaw, published
    from fit.quantities import cutoff, effective_parameter_count
    from fit.runs import Runs, canonical, dense, load_runs, routers
    from fit.select import akaike_weights, criteria, nested_test, roll_out
    from fit.uncertainty.delta import correlations, covariance, standard_errors
    from fit.uncertainty.draws import Draws, resample
    from fit.uncertainty.intervals import difference, estimates
    from fit.uncertainty.profile import profile_interval

_HOME = {
    "common.errors": ("InputError",),
    "fit.analysis": ("Analysis", "Options", "Point", "Result", "analyse"),
    "fit.budget.allocate": ("Allocation", "allocate"),
    "fit.budget.isoflop": ("IsoFLOP", "compare_approaches", "isoflop"),
    "fit.engine.losses": ("Loss", "huber", "squared", "squared_log"),
    "fit.engine.solve": ("Certificate", "Fit", "fit_law"),
    "fit.errors": ("NotIdentifiedError",),
    "fit.estimate": ("Estimate", "Status"),
    "fit.laws": ("CATALOGUE", "Law", "Shape", "law_named", "stack_features"),
    "fit.engine.shared": ("fit_shared",),
    "fit.literature": ("PublishedLaw", "published"),
    "fit.quantities": ("cutoff", "effective_parameter_count"),
    "fit.runs": ("Runs", "canonical", "dense", "load_runs", "routers"),
    "fit.select": ("akaike_weights", "criteria", "nested_test", "roll_out"),
    "fit.uncertainty.delta": ("correlations", "covariance", "standard_errors"),
    "fit.uncertainty.draws": ("Draws", "resample"),
    "fit.uncertainty.intervals": ("difference", "estimates"),
    "fit.uncertainty.profile": ("profile_interval",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CATALOGUE", "Allocation", "Analysis", "Certificate", "Draws", "Estimate", "Fit", "InputError", "IsoFLOP", "Law", "Loss",
    "NotIdentifiedError", "Options", "Point", "PublishedLaw", "Result", "Runs", "Shape", "Status", "akaike_weights", "allocate",
    "analyse", "canonical", "compare_approaches", "correlations", "covariance", "criteria", "cutoff", "dense", "difference",
    "effective_parameter_count", "estimates", "fit_law", "fit_shared", "huber", "isoflop", "law_named", "load_runs", "nested_test",
    "profile_interval", "published", "resample", "roll_out", "routers", "squared", "squared_log", "stack_features", "standard_errors",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in (PEP 562)."""
    if name not in _MODULE:
        raise AttributeError(f"module 'fit' has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)
