"""Meshes for a step that does not fit: every one that does, by closed form, and the fastest."""

import math
from collections.abc import Iterator
from dataclasses import replace

from plan.outlook import Outlook, by_closed_form
from plan.request import Request
from reference.errors import ConfigError

MICROBATCHES = 6
"""How often the number of microbatches is doubled in the search."""


def fastest_fit(request: Request, steps: int) -> Outlook | None:
    """The step of `request` on the mesh, and in as many microbatches, with which it fits and takes
    least; None if none fits.

    The least time is the mean of everything overlapped and nothing, because two meshes often have
    the same bound in products.
    """
    fitting = [found for each in _others(request) if (found := _tried(each, steps)) is not None]
    return min(fitting, key=lambda o: o.time.overlapped + o.time.serial, default=None)


def in_words(found: Outlook | None) -> str:
    """What the search says of a step that does not fit, in a line."""
    if found is None:
        return "Does not fit, nor does any mesh or number of microbatches; use more chips"
    request, time = found.request, found.time
    data, expert, model = request.axes
    fsdp, share = "--fsdp " if request.fsdp else "", found.memory["peak"] / found.chip.hbm
    return (
        f"Does not fit, but {fsdp}--mesh data={data},expert={expert},model={model} --microbatches "
        f"{request.microbatches} does: {share:.0%} of the memory, {time.overlapped:.3g} to "
        f"{time.serial:.3g} s a step"
    )


def _others(request: Request) -> Iterator[Request]:
    """Every mesh of as many chips, in more microbatches, and with FSDP."""
    chips = math.prod(request.axes)
    for data in _divisors(chips):
        for expert in _divisors(chips // data):
            for doubled in range(MICROBATCHES + 1):
                microbatches = request.microbatches * 2**doubled
                if request.batch % microbatches:
                    continue
                for fsdp in {request.fsdp, True}:
                    mesh = data, expert, chips // data // expert
                    yield replace(request, mesh=mesh, microbatches=microbatches, fsdp=fsdp)


def _tried(request: Request, steps: int) -> Outlook | None:
    try:
        found = by_closed_form(request, steps)
    except ConfigError:
        return None
    return found if found.fits else None


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
