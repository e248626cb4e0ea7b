"""A small table of runs, and what tests ask of the runs read from it."""

from fit.runs import Runs

HEADER = "hyper_id,step,loss_validation,num_experts,dense_parameter_count,router_type,seed"
ROWS = [
    "0,0,10.5,1,1000000,Dense,42",
    "0,100,3.5,1,1000000,Dense,42",
    "1,0,10.5,8,1000000,Hash,42",
    "1,100,3.25,8,1000000,Hash,42",
    "1,200,,8,1000000,Hash,42",
]
GOOD = "\n".join([HEADER, *ROWS, ""])


def codes(runs: Runs) -> list[str]:
    """The codes of the warnings, in order."""
    return [warning.code for warning in runs.warnings]


def only(runs: Runs, code: str) -> str:
    """The message of the one warning with this code."""
    (message,) = [warning.message for warning in runs.warnings if warning.code == code]
    return message


def as_lists(runs: Runs) -> dict[str, list[object]]:
    """The columns, NaN as None."""
    return runs.to_polars().to_dict(as_series=False)
