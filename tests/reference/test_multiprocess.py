"""Several processes, each with devices of its own, give what one device gives; over the loopback, as on a cluster."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checks import HANG_SECONDS, free_port, on_devices


def run_processes(cases: list[dict[str, Any]], processes: int, devices: int) -> list[list[dict[str, Any]]]:
    """What each of `processes` finds, which have `devices` each. None outlives the call."""
    port = free_port()
    worker = str(Path(__file__).with_name("sharded_worker.py"))
    request = {"x64": True, "cases": cases, "processes": processes, "port": port}
    running = [
        subprocess.Popen(
            [sys.executable, worker, json.dumps({**request, "rank": rank})],
            env=on_devices(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        printed = [process.communicate(timeout=HANG_SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(running, printed, strict=True):
        assert process.returncode == 0, errors[-4000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in printed]


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_gradient_weights_and_losses_of_one_device() -> None:
    # Experts over processes: their all-to-all, and every sum, crosses from one to the other.
    case = {"technique": "s-base", "mesh": [1, 4, 1], "k": 2}
    for found in run_processes([case], processes=2, devices=2):
        for result in found:
            # As in `test_mesh`: only the order of float64 sums differs.
            assert max(result["distances"].values()) < 1e-9
            assert result["gradient"] > 1e-3
