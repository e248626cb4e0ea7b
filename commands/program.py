"""The command's name: `cli.py` in a clone, `routelaw` where a wheel is installed."""

import sys
from pathlib import Path

SCRIPT = "cli.py"


def program() -> str:
    """What the user typed to run this."""
    return "routelaw" if Path(sys.argv[0]).stem == "routelaw" else SCRIPT


def named(message: str) -> str:
    """`message` with the commands in it as the user would type them."""
    return message.replace(f"{SCRIPT} ", f"{program()} ")
