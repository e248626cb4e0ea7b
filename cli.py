"""The command line, `cli.py`, or `routelaw` where installed; thin: one subcommand is one typed dataclass, with one call into the library.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped by a signal. Errors are one line on standard error.
"""

import os
import sys
from typing import Any

import tyro

from commands.designing import Design
from commands.fetching import Fetch
from commands.fitting import Fit, with_laws
from commands.interrupt import INTERRUPTED, interruptible
from commands.models import Count
from commands.planning import Plan
from commands.program import named, program
from commands.studies import Compare, Reproduce
from commands.sweeping import Sweep
from commands.texts import Cache, Tokenize
from commands.trained import Evaluate, Export, Sample, Show
from commands.training import Train, with_defaults

# Matrices of laws are so small that the threads of the linear algebra only get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS: dict[str, type[Any]] = {
    "fit": Fit,
    "compare": Compare,
    "reproduce": Reproduce,
    "fetch": Fetch,
    "design": Design,
    "count": Count,
    "plan": Plan,
    "train": Train,
    "sweep": Sweep,
    "tokenize": Tokenize,
    "show": Show,
    "sample": Sample,
    "eval": Evaluate,
    "export": Export,
    "cache": Cache,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        # Python has no object for a stream that is closed, and nothing could be written to it.
        if stream is None:
            print(f"error: {name} is closed; redirect it, for example to /dev/null", file=sys.stderr or sys.stdout)
            return 1
    from common.terminal import never_fail

    never_fail()
    with interruptible() as interrupt:
        try:
            code = _parsed(sys.argv[1:] if arguments is None else arguments).run() or 0
            sys.stdout.flush()
        except BaseException as error:
            if interrupt.asked or isinstance(error, KeyboardInterrupt):
                interrupt.end()
                return INTERRUPTED
            return _failed(error)
    return code


def _failed(error: BaseException) -> int:
    """Print what was wrong, and return the exit code. Raises what is neither the request's fault nor the machine's."""
    from common.errors import InputError, WorkError
    from common.terminal import printable

    if not isinstance(error, (InputError, WorkError, OSError)):
        raise error
    if not isinstance(error, InputError):
        _drop_output()
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has seen enough: nothing failed.
        return 0
    print(printable(named(f"error: {error}")), file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1


def _parsed(arguments: list[str]) -> Any:
    """The command that these arguments are."""
    commands = dict(COMMANDS)
    if {"-h", "--help"} & set(arguments):
        if arguments[0] in ("fit", "compare"):
            commands[arguments[0]] = with_laws(COMMANDS[arguments[0]])
        elif arguments[0] == "train":
            commands["train"] = with_defaults(Train)
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog=program(), description="Reference routers, and the laws they obey.", args=arguments
    )


def _drop_output() -> None:
    """Standard output that cannot be written goes nowhere: Python would complain once more as it closes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
