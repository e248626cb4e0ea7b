"""Compiled for TPUs that are not there: forward and backward passes, whose memory is linear in the context."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plan.chips import Topology
from plan.compiled import compiler_settings
from tests.checks import HANG_SECONDS

MiB = 2**20
# Batch, heads, context, kqv, documents: heads of the larger sizes, of 25M to 130M, and of 15M.
SHAPES = [(8, 16, 2048, 128, False), (8, 16, 2048, 128, True), (8, 16, 2048, 64, True), (8, 8, 2048, 32, False), (8, 16, 4096, 128, True)]


@pytest.mark.tpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_on_tpu_memory_is_linear_in_the_context(topology: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("aot_worker.py")), topology, json.dumps(SHAPES)]
    environment = os.environ | compiler_settings(Topology(topology)) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    found = dict(zip(SHAPES, json.loads(done.stdout.splitlines()[-1]), strict=True))
    print(f"\n{topology:10} {'batch heads context kqv documents':36} {'pass':8} temporaries / MiB  results / MiB   GFLOP  moved / MiB")
    for shape, passes in found.items():
        for name, of in passes.items():
            sizes = f"{of['temporaries'] / MiB:17.1f}  {of['results'] / MiB:13.1f} {of['flops'] / 1e9:7.0f} {of['moved'] / MiB:12.0f}"
            print(f"{topology:10} {shape!s:36} {name:8} {sizes}")
    for (batch, heads, context, kqv, _), passes in found.items():
        # At once there are at most these arrays of the queries' size: copies as [kqv, context] of four operands, the output and its
        # gradient, and of three results; in bfloat16. The gradient of the positions, in float32, is smaller. A number for each pair of a
        # query and a key would be more.
        rows = batch * heads * context * kqv * 2
        for of in passes.values():
            assert of["temporaries"] < 10 * rows
            assert 10 * rows < 2 * batch * heads * context**2
