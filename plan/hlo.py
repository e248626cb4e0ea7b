"""Collectives in a compiled program, read from its text: which, how large, and how often they run.

A program's text is a list of computations. The entry runs once; the body of a loop as often as its
condition says, once if that depends on data; a called computation as often as its caller. XLA's own
cost analysis counts the body of any loop once (`traffic.counted_once`).
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

KINDS: tuple[str, ...] = (
    "all-to-all",
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "collective-permute",
)

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>\S+) = (?P<type>.*?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collectives:
    """Those of one kind."""

    instructions: int
    """In the program's text."""
    runs: int
    """In one call of the program: one in a loop counts in each of its iterations."""
    bytes: int
    """Of the arrays on one device, over all runs: the larger of input and output."""
    depth: int = 0
    """How many loops are around each of them, at least."""


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    op: str
    rest: str

    def attribute(self, name: str) -> str | None:
        """The computation that attribute `name` refers to."""
        found = re.search(rf"\b{name}=%?([\w.-]+)", self.rest)
        return found and found[1]

    @property
    def operands(self) -> list[str]:
        """Their names."""
        return re.findall(r"%([\w.-]+)", self.rest.split("), ")[0])


def collectives(text: str) -> dict[str, Collectives]:
    """Of every kind in `KINDS`, in the text of a compiled program."""
    computations, entry = _computations(text)
    types = {each.name: each.type for body in computations.values() for each in body}
    found: dict[str, Collectives] = {kind: Collectives(0, 0, 0) for kind in KINDS}
    runs, depths = _runs(computations, entry)
    for name, depth in depths.items():
        for instruction in computations[name]:
            kind = instruction.op.removesuffix("-start")
            if kind not in found:
                continue
            size = _size(instruction.type)
            if instruction.op == kind:
                operands = (types[name] for name in instruction.operands if name in types)
                size = max(size, sum(map(_size, operands)))
            else:
                size //= 2
            before = found[kind]
            found[kind] = Collectives(
                before.instructions + 1,
                before.runs + runs[name],
                before.bytes + runs[name] * size,
                min(depth, before.depth) if before.instructions else depth,
            )
    return found


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Instructions by computation, and which is the entry."""
    computations: dict[str, list[_Instruction]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.-]+) .*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            computations[name].append(_Instruction(**match.groupdict()))
    return computations, entry


def _runs(
    computations: dict[str, list[_Instruction]], entry: str
) -> tuple[Counter[str], dict[str, int]]:
    """How often each computation runs that the entry reaches, and in how many loops at least."""
    runs: Counter[str] = Counter()
    depths: dict[str, int] = {}

    def _visit(name: str, times: int, depth: int) -> None:
        runs[name] += times
        depths[name] = min(depth, depths.get(name, depth))
        for instruction in computations[name]:
            body, condition = instruction.attribute("body"), instruction.attribute("condition")
            if instruction.op == "while" and body and condition:
                _visit(body, times * _iterations(computations[condition]), depth + 1)
                continue
            called = instruction.attribute("calls")
            # A collective that overlaps with other work is written in each fusion that it overlaps
            # with; it is counted where it starts.
            overlapped = instruction.name.startswith("async-collective-done") or (
                called or ""
            ).startswith("async_collective_fusion")
            if called in computations and not overlapped:
                _visit(called, times, depth)

    _visit(entry, 1, 0)
    return runs, depths


def _iterations(condition: list[_Instruction]) -> int:
    """Iterations of a loop that counts from 0: the constant that its condition, the last
    instruction, compares with. Without one they depend on data, as an evaluation's rounds do: one
    is counted."""
    constants = {each.name: each.rest for each in condition if each.op == "constant"}
    compared = (constants[name] for name in condition[-1].operands if name in constants)
    return max(
        (int(number[1]) for rest in compared if (number := re.match(r"(\d+)\)", rest))), default=1
    )


def _size(type: str) -> int:
    """Bytes of a type, or of all in a tuple."""
    sizes = (
        _BYTES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _SHAPE.findall(type)
    )
    return sum(sizes)
