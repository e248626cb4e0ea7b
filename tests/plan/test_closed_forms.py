"""Closed forms of collectives against programs compiled for 8 simulated devices (`compiling_worker.py`)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plan.hlo import Collectives
from plan.request import Request, from_record
from plan.traffic import evaluation_collectives, step_traffic, total
from tests.checks import on_devices

SMALL: dict[str, Any] = {
    "size": "7K", "experts": 8, "topology": "v5e:2x4", "batch": 16, "context": 8, "dtype": "float32", "routing_frequency": 1.0,
}  # fmt: skip
FINE: dict[str, Any] = {"router": "loss-free", "k": 2, "granularity": 2, "shared_experts": 1}
CASES: dict[str, dict[str, Any]] = {
    "evaluation": {"program": "evaluation"},
    "evaluation, fine": {"program": "evaluation", "mesh": [2, 4, 1], **FINE},
    "evaluation, all axes": {"program": "evaluation", "mesh": [2, 2, 2], **FINE},
    "evaluation, dense": {"program": "evaluation", "router": "dense"},
    "step, microbatches": {"program": "step", "microbatches": 2},
    "step, all axes": {"program": "step", "mesh": [2, 2, 2], "remat": "none", "attention": "plain", **FINE},
    "step, remat": {"program": "step", "mesh": [2, 2, 2], "remat": "full", **FINE},
    "step, selective": {"program": "step", "mesh": [2, 2, 2], "microbatches": 2, **FINE},
}


def request_of(case: str) -> Request:
    """The request of a case."""
    return from_record({"mesh": None, **SMALL, **CASES[case]})


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Collectives]]:
    """The collectives of each case's program."""
    command = [sys.executable, str(Path(__file__).with_name("compiling_worker.py")), json.dumps([SMALL | case for case in CASES.values()])]
    done = subprocess.run(command, env=on_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    programs = json.loads(done.stdout)
    return {case: {kind: Collectives(**counts) for kind, counts in program.items()} for case, program in zip(CASES, programs, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms_of_collectives_are_what_the_compiled_program_moves(found: dict[str, dict[str, Collectives]], case: str) -> None:
    request = request_of(case)
    is_step = request.program == "step"
    closed = step_traffic(request.step).collectives if is_step else evaluation_collectives(request.step)
    moved = found[case]
    for kind in ("all-to-all", "all-gather", "reduce-scatter"):
        # XLA on CPU does not split top_k over devices: it gathers the router's scores, E for each of 16 x 8 tokens in 2 layers. S-BASE
        # has top_k in evaluation only; with rematerialisation it runs twice.
        runs = 0 if request.router == "dense" or (is_step and request.router == "s-base") else 1 + (is_step and request.remat != "none")
        more = runs * 4 * 2 * 16 * 8 * 8 if kind == "all-gather" else 0
        assert moved[kind].bytes == total(closed, kind) + more, kind
    # Left out are losses and metrics, a number each or one for each expert, and over `model` the softmax's sums: at most one number for
    # each of a device's 32 tokens in each of three sums.
    left_out = moved["all-reduce"].bytes - total(closed, "all-reduce")
    assert 0 <= left_out <= request.microbatches * 4 * (100 + (3 * 32 if request.axes[2] > 1 else 0))


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("evaluation")])
def test_an_evaluation_moves_tokens_in_its_rounds_and_never_gathers_experts(found: dict[str, dict[str, Collectives]], case: str) -> None:
    if case == "evaluation, dense":
        assert found[case]["all-to-all"].runs == found[case]["all-gather"].runs == 0
        return
    # There and back in each of two layers: one round is counted, and both are in the loops over layers and over rounds.
    assert found[case]["all-to-all"].runs == 2 * 2
    assert found[case]["all-to-all"].depth == 2
    # A layer's experts are 8 * 2 * 16 * 64 numbers, more than all that is gathered but the embedding.
    gathered = found[case]["all-gather"].bytes - (4 * 32_000 * 16 if request_of(case).axes[2] > 1 else 0)
    experts = 4 * 8 * 2 * 16 * request_of(case).config().expert_hidden
    assert gathered < experts


def test_a_steps_all_to_alls_are_in_the_loop_over_blocks_alone(found: dict[str, dict[str, Collectives]]) -> None:
    assert {case: found[case]["all-to-all"].depth for case in CASES if case.startswith("step")} == {
        "step, microbatches": 2,
        "step, all axes": 1,
        "step, remat": 1,
        "step, selective": 2,
    }
