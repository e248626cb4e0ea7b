"""Measures the items of one part and prints each result as a line of JSON; `parts.py` runs it as

    python -m benchmarks.device.worker MODULE '[{...}, ...]'

A failure ends the process: what a faulty kernel or exhausted memory leaves behind must not meet the next item.
"""

import json
import sys
from importlib import import_module


def main() -> None:
    """All items, in order."""
    part, items = import_module(sys.argv[1]), json.loads(sys.argv[2])
    for item in items:
        print(json.dumps(part.measure(item)), flush=True)


if __name__ == "__main__":
    main()
