"""Collectives in a compiled program, read from its text: which, how large, and how often they run.

A program's text is a list of computations. The entry runs once; the body of a loop as often as its
condition says; what an instruction calls, as often as the instruction runs. XLA's own cost analysis
counts a loop's body once (`programs.counted_once`).
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

KINDS = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce", "collective-permute")

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
    """In the program's text: how often it is written."""
    runs: int
    """In one call of the program: those in a loop once for each of its turns."""
    bytes: int
    """Of the arrays on one device, over all runs: the larger of what goes in and what comes out."""


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


def collectives(text: str) -> dict[str, Collectives]:
    """Of every kind in `KINDS`, in the text of a compiled program."""
    computations, entry = _computations(text)
    types = {
        instruction.name: instruction.type for body in computations.values() for instruction in body
    }
    found = {kind: Collectives(0, 0, 0) for kind in KINDS}
    for name, runs in _runs(computations, entry).items():
        for instruction in computations[name]:
            kind = instruction.op.removesuffix("-start")
            if kind in found:
                before = found[kind]
                size = (
                    max(_size(instruction.type), _operands_size(instruction, types))
                    if instruction.op == kind
                    else _size(instruction.type) // 2
                )
                found[kind] = Collectives(
                    before.instructions + 1, before.runs + runs, before.bytes + runs * size
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


def _runs(computations: dict[str, list[_Instruction]], entry: str) -> Counter[str]:
    """How often each computation runs that the entry reaches."""
    runs: Counter[str] = Counter()

    def _visit(name: str, times: int) -> None:
        runs[name] += times
        for instruction in computations[name]:
            body, condition = instruction.attribute("body"), instruction.attribute("condition")
            if instruction.op == "while" and body and condition:
                _visit(body, times * _turns(computations[condition]))
                continue
            called = instruction.attribute("calls")
            # A collective that runs beside other work is written in each fusion it runs beside; it
            # is counted where it starts.
            beside = instruction.name.startswith("async-collective-done") or (
                called or ""
            ).startswith("async_collective_fusion")
            if called in computations and not beside:
                _visit(called, times)

    _visit(entry, 1)
    return runs


def _turns(condition: list[_Instruction]) -> int:
    """Turns of a loop that counts from 0:
    the constant that its condition compares with; 1 if there is none to read."""
    constants = [
        int(found[1])
        for i in condition
        if i.op == "constant" and (found := re.match(r"(\d+)\)", i.rest))
    ]
    return max(constants, default=1)


def _operands_size(instruction: _Instruction, types: dict[str, str]) -> int:
    operands = instruction.rest.split("), ")[0]
    return sum(_size(types[name]) for name in re.findall(r"%([\w.-]+)", operands) if name in types)


def _size(type: str) -> int:
    """Bytes of a type, or of all in a tuple."""
    sizes = (
        _BYTES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _SHAPE.findall(type)
    )
    return sum(sizes)
