"""Closed forms of collectives against programs compiled for 8 simulated devices (`compiling_worker.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plan.hlo import Collectives
from plan.request import Request, from_record
from plan.traffic import evaluation_traffic, step_traffic

ROOT = Path(__file__).parents[2]
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
    "step, all axes": {"program": "step", "mesh": [2, 2, 2], "remat": False, **FINE},
    "step, remat": {"program": "step", "mesh": [2, 2, 2], **FINE},
}


def request_of(case: str) -> Request:
    """The request of a case."""
    return from_record({"mesh": None, **SMALL, **CASES[case]})


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Collectives]]:
    """The collectives of each case's program."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("compiling_worker.py")), json.dumps([SMALL | case for case in CASES.values()])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    programs = json.loads(done.stdout)
    return {
        case: {kind: Collectives(**counts) for kind, counts in program.items()} for case, program in zip(CASES, programs, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_show(found, case):
    request = request_of(case)
    closed = (step_traffic if request.program == "step" else evaluation_traffic)(request.step)
    print(case)
    for kind in found[case]:
        print("   ", kind, found[case][kind], closed.total(kind), found[case][kind].bytes - closed.total(kind))
