"""`compare` and `reproduce`: the laws against each other, and what papers state beside their runs or their laws."""

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from commands.fitting import Curves, Fitting, given_options
from commands.shared import Flat, Names, Output, finish, progress_shown, split

if TYPE_CHECKING:
    from fit.analysis import Options
    from fit.papers.paper import Paper
    from fit.runs import Runs

ASK = """reproduce compares the paper with its released runs; fetch and pass them:
    cli.py fetch curves.csv.gz
    cli.py reproduce curves.csv.gz"""


@dataclass(frozen=True)
class Compare:
    """Hold the laws against each other: which predicts held-out sizes, and which answers depend on the law."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to compare, several with commas; none: those in N and E, or of runs of one E those of dense runs."""

    def run(self) -> None:
        """Say how long it will take, compare, print, and write the report if asked for."""
        from fit.compare import compare, compare_document, compare_json

        runs, options = self.runs.load(), self.how.options(split(self.law))
        print(forecast(runs, options), file=sys.stderr, flush=True)
        with progress_shown() as progress:
            comparison = compare(runs, options, progress)
        finish(self.output, "compare", lambda: compare_json(comparison), lambda: compare_document(comparison))


FITTED = ("loss", "scheme", "draws", "seed", "level")
"""What of `Fitting` the one of them that fits anything uses: marin."""


@dataclass(frozen=True)
class Reproduce:
    """Put what a paper states beside what its runs, or its published law, give.

    - clark: needs the released runs
    - abnar, krajewski, ludziejewski: beside their own laws, without a file
    - marin, smalltalk: beside the few losses they published, without a file
    """

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    paper: Literal["clark", "abnar", "krajewski", "ludziejewski", "marin", "smalltalk"] = "clark"
    """Whose statements and figures."""

    def run(self) -> None:
        """Reproduce, print, and write the report if asked for. Raises `InputError` for a file of runs that is missing or has no use."""
        from common.errors import InputError

        if self.paper != "clark":
            self._run_without_runs()
            return
        if not self.runs.curves:
            raise InputError(ASK)
        from fit.papers.clark2022 import reproduce, reproduce_document, reproduce_json

        with progress_shown() as progress:
            found = reproduce(self.runs.load(), self.how.options(()), progress)
        finish(self.output, "reproduce", lambda: reproduce_json(found), lambda: reproduce_document(found))

    def _run_without_runs(self) -> None:
        from common.errors import InputError
        from fit.papers.paper import paper_document, paper_json

        if given := given_options(self.runs, self.how, FITTED if self.paper == "marin" else ()):
            unused = ", ".join(given)
            raise InputError(f"--paper {self.paper} needs no runs and has no use for {unused}: cli.py reproduce --paper {self.paper}")
        found = self._without_runs()
        finish(self.output, self.paper, lambda: paper_json(found), lambda: paper_document(found))

    def _without_runs(self) -> "Paper":
        from golden import public_points

        match self.paper:
            case "abnar":
                from fit.papers.abnar2025 import reproduce

                return reproduce()
            case "krajewski":
                from fit.papers.krajewski2024 import reproduce

                return reproduce()
            case "ludziejewski":
                from fit.papers.ludziejewski2025 import reproduce

                return reproduce()
            case "smalltalk":
                from fit.papers.smalltalk2024 import reproduce

                return reproduce(public_points())
            case _:
                from fit.papers.marin import reproduce

                return reproduce(public_points(), self.how.options(()))


DRAWS_PER_FIT = 250
"""Draws that take as long as one fit with its roll-out, over the laws that are compared: measured."""

SCATTERED_FITS = 40
"""Fits of a law of at most three shapes that take as long as one of more, with its roll-out: measured."""


def forecast(runs: "Runs", options: "Options") -> str:
    """How many fits and draws `compare` makes, and how long it will take by one fit timed now."""
    from common.document.numbers import many
    from common.errors import InputError
    from fit.analysis import DENSE_ROUTER, PAPER_LAW, fit_runs
    from fit.compare import asked
    from fit.engine.search import MOST_GRID_SHAPES
    from fit.laws import Law, law_named
    from fit.runs import canonical, routers

    options, names = asked(runs, options), routers(runs, options.routers) or (DENSE_ROUTER,)
    fits, fewer = len(options.laws) * len(names), options.fewer_draws
    drawn = f"{f'{fewer:,} to ' * (fewer < options.draws and fits != 1)}{many(options.draws, 'draw')}"
    what = f"{many(fits, 'fit') if fits else 'a few fits'} with {drawn} each"
    if not options.laws:
        return what
    start = time.perf_counter()
    try:
        fit_runs(law_named(PAPER_LAW), canonical(runs, names[0]), names[0], options)
    except InputError:
        return what
    draws = len(names) * ((len(options.laws) - 1) * fewer + options.draws)
    laws = [law if isinstance(law, Law) else law_named(law) for law in options.laws if law != "per-size"]
    large = sum(len(law.shapes) > MOST_GRID_SHAPES for law in laws) * len(names) * SCATTERED_FITS
    seconds = (time.perf_counter() - start) * (fits + large + draws / DRAWS_PER_FIT)
    return f"{what}: about {max(seconds, 1):.0f} s"
