"""Results as text, Markdown and JSON, and the list of programs that `docs/plan.md` holds."""

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from common.files import write_atomically
from plan.chips import GIB, Topology
from plan.compiled import Result, from_result, measure
from plan.hlo import KINDS, Collectives
from plan.request import Request
from reference.routers import ROUTERS

SCHEMA = "routelaw.plan/1"
BEGIN, END = "<!-- begin: cli.py plan --all -->", "<!-- end: cli.py plan --all -->"
"""What `write` replaces lies between these lines of a page;
a page without them is replaced whole."""

ALL: tuple[Request, ...] = (
    *(
        Request("layer", topology=topology, router=router)
        for topology in ("v5e:4x4", "v5p:2x2x4")
        for router in ROUTERS
    ),
    *(
        Request("step", size, topology=topology)
        for topology in ("v5e:4x4", "v5p:2x2x4")
        for size in ("370M", "1.3B")
    ),
    Request("step", "370M", topology="v5e:4x4", parts=16),
)
"""Each router's layer on two kinds of chip, and whole steps of two sizes on slices of 16 chips;
one of them in parts."""

Progress = Callable[[int, int, str], None]


def measure_all(requests: Sequence[Request], page: Path | None, progress: Progress) -> list[Result]:
    """Results of `requests` in order.

    With a page, those that its JSON has are taken from there, and both are written after each.
    """
    known = {result.request: result for result in _read(page)} if page else {}
    results: list[Result] = []
    for number, request in enumerate(requests):
        progress(
            number,
            len(requests),
            f"{request.program} {request.size} {request.router} {request.topology}",
        )
        result = known.get(request)
        results.append(measure(request) if result is None else result)
        if page and result is None:
            write(results, page)
    progress(len(requests), len(requests), "")
    if page:
        write(results, page)
    return results


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Everything, for JSON."""
    versions = {name: metadata.version(name) for name in ("jax", "libtpu")}
    return {
        "schema": SCHEMA,
        "versions": versions,
        "programs": [result.record() for result in results],
    }


def write(results: Sequence[Result], page: Path) -> None:
    """The tables into `page`, between its marks if it has them, and the record beside it as JSON."""
    text = page.read_text() if page.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    write_atomically(page, f"{before if begin else ''}{BEGIN}\n\n{markdown(results)}\n{END}{after}")
    write_atomically(page.with_suffix(".json"), json.dumps(record(results), indent=1) + "\n")


def markdown(results: Sequence[Result]) -> str:
    """A table of layers and one of steps."""
    versions = record([])["versions"]
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        (
            *(f"{title}\n\n{_table(rows)}" for title, rows in _tables(results)),
            f"Compiled by {made}.\n",
        )
    )


def text(results: Sequence[Result]) -> str:
    """The same for a terminal, each result a block of lines."""
    blocks = (
        "\n".join(f"{name:>21}  {value}" for name, value in row.items())
        for _, rows in _tables(results)
        for row in rows
    )
    return "\n\n".join(blocks)


def _read(page: Path) -> list[Result]:
    path = page.with_suffix(".json")
    return (
        [from_result(result) for result in json.loads(path.read_text())["programs"]]
        if path.exists()
        else []
    )


def _tables(results: Sequence[Result]) -> list[tuple[str, list[dict[str, str]]]]:
    found = [
        (f"**{title}**", [_row(result) for result in results if result.request.program == program])
        for program, title in (
            ("layer", "One routed layer, value and gradient"),
            ("step", "A whole training step"),
        )
    ]
    return [(title, rows) for title, rows in found if rows]


def _row(result: Result) -> dict[str, str]:
    request, memory = result.request, result.memory
    data, expert, model = request.axes
    moved = result.collectives
    return {
        "topology": request.topology,
        "data x expert x model": f"{data} x {expert} x {model}",
        "model": f"{request.size} {request.router}"
        + ("" if request.router == "dense" else f" E={request.experts}"),
        "batch": f"{request.batch}" + (f" in {request.parts}" if request.parts > 1 else ""),
        "fits": f"{'yes' if result.fits else 'no'}: {_gib(memory.total)} of {_gib(Topology(request.topology).chip.hbm)} GiB",
        "arguments GiB": _gib(memory.arguments),
        "temporaries GiB": _gib(memory.temporaries),
        "FLOPs": "" if result.flops is None else f"{result.flops:.3g}",
        "of closed form": "" if result.ratio is None else f"{result.ratio:.3f}",
        **{
            f"{kind} (GiB)": "" if moved is None else _moved(moved[kind])
            for kind in KINDS
            if kind != "collective-permute"
        },
    }


def _moved(found: Collectives) -> str:
    return f"{found.runs} ({_gib(found.bytes)})" if found.runs else "0"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _table(rows: Sequence[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
