"""Compiles planned programs for 8 simulated CPU devices, in a process of its own: their number is fixed when JAX starts.

    python compiling_worker.py '[{"program": "evaluation", "size": "7K", "topology": "v5e:2x4", ...}, ...]'

prints one list, an entry for each request: its program's collectives by kind.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from plan.hlo import collectives
from plan.programs import lowered
from plan.request import from_record
from reference.mesh import make_mesh


def compiled(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The collectives of one request's program."""
    request = from_record({"mesh": None, **record})
    program = lowered(request, make_mesh(*request.axes))[0].compile()
    return {kind: asdict(counts) for kind, counts in collectives(program.as_text() or "").items()}


if __name__ == "__main__":
    print(json.dumps([compiled(record) for record in json.loads(sys.argv[1])]))
