"""Results as text, Markdown and JSON, and the list of programs in `docs/plan.md`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from common.files import write_atomically
from plan.chips import GIB, Topology
from plan.compiled import Result, from_result, measure
from plan.hlo import KINDS, Collectives
from plan.memory import evaluation_memory, step_memory
from plan.request import Program, Request
from reference.routers import ROUTERS

SCHEMA = "routelaw.plan/2"
BEGIN, END = "<!-- begin: cli.py plan --all -->", "<!-- end: cli.py plan --all -->"
"""`write` replaces what is between these lines of a page; a page without them is replaced whole."""

TITLES: dict[Program, str] = {
    "layer": "One routed layer, value and gradient",
    "step": "A training step",
    "evaluation": "One batch of an evaluation, with one round in each layer",
}

Progress = Callable[[int, int, str], None]


def evaluation_of(step: Request) -> Request:
    """The evaluation in a run of such steps: its batches are microbatches."""
    batch = step.batch // step.microbatches
    return replace(step, program="evaluation", batch=batch, microbatches=1)


_LEAN: dict[str, Any] = {"fsdp": True, "first_moment": "bfloat16"}

_EVALUATED = (
    Request("step", "370M"),
    Request("step", "1.3B"),
    Request("step", "1.3B", experts=512, topology="v5p:4x4x4"),
    Request("step", "370M", topology="v5e:4x4", microbatches=16, **_LEAN),
)

ALL: tuple[Request, ...] = (
    *(Request("layer", router=router) for router in ROUTERS),
    *_EVALUATED,
    Request("step", "1.3B", attention="kernel"),
    Request("step", "1.3B", topology="v5e:8x8", microbatches=4, **_LEAN),
    Request("step", "1.3B", topology="v5p:2x2x2", microbatches=16, **_LEAN),
    Request("step", "370M", topology="v5e:4x4"),
    *map(evaluation_of, _EVALUATED),
)
"""Each router's layer; steps with their evaluations: on as many chips of 95 GB as there are GPUs of
80 GB in a box, and one that does not fit."""


def measure_all(requests: Sequence[Request], page: Path | None, progress: Progress) -> list[Result]:
    """Results of `requests` in order.

    With a page, those that its JSON has are not compiled again, and both are written after each.
    """
    known = {result.request: result for result in _read(page)} if page else {}
    results: list[Result] = []
    for number, request in enumerate(requests):
        name = f"{request.program} {request.model} {request.topology}"
        progress(number, len(requests), name)
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
    programs = [result.record() for result in results]
    return {"schema": SCHEMA, "versions": versions, "programs": programs}


def write(results: Sequence[Result], page: Path) -> None:
    """The tables into `page`, and the record beside it as JSON."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    write_atomically(page, f"{before if begin else ''}{BEGIN}\n\n{markdown(results)}\n{END}{after}")
    write_atomically(page.with_suffix(".json"), json.dumps(record(results), indent=1) + "\n")


def markdown(results: Sequence[Result]) -> str:
    """A table of each kind of program."""
    tables = (f"**{title}**\n\n{_table(rows)}" for title, rows in _tables(results))
    made = ", ".join(f"{name} {version}" for name, version in record([])["versions"].items())
    return "\n".join((*tables, f"Compiled by {made}.\n"))


def text(results: Sequence[Result]) -> str:
    """The same for a terminal, a block of lines for each result."""
    return "\n\n".join(
        "\n".join(f"{name:>21}  {value}" for name, value in {"program": title, **row}.items())
        for title, rows in _tables(results)
        for row in rows
    )


def _read(page: Path) -> list[Result]:
    path = page.with_suffix(".json")
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    return [from_result(each) for each in record["programs"]] if record["schema"] == SCHEMA else []


def _tables(results: Sequence[Result]) -> list[tuple[str, list[dict[str, str]]]]:
    return [
        (title, rows)
        for program, title in TITLES.items()
        if (rows := [_row(result) for result in results if result.request.program == program])
    ]


def _row(result: Result) -> dict[str, str]:
    request, memory, moved = result.request, result.memory, result.collectives
    number, hbm = request.microbatches, Topology(request.topology).chip.hbm
    peak = {"step": step_memory, "evaluation": evaluation_memory}.get(request.program)
    return {
        "topology": request.topology,
        "data x expert x model": request.mesh_text,
        "model": request.model,
        **({"form": request.form} if request.program == "step" else {}),
        "batch": f"{request.batch}" + (f" in {number}" if number > 1 else ""),
        "fits": f"{'yes' if result.fits else 'no'}: {_gib(memory.total)} of {_gib(hbm)} GiB",
        "arguments GiB": _gib(memory.arguments),
        "temporaries GiB": _gib(memory.temporaries),
        **({"closed form GiB": _gib(peak(request.step).peak)} if peak else {}),
        "FLOPs": "" if result.flops is None else f"{result.flops:.3g}",
        "FLOPs of closed form": "" if result.ratio is None else f"{result.ratio:.3f}",
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
