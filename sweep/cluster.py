"""What trains the runs of a sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class Phase:
    """Where a run is, as far as the cluster knows; how it ended is in its files."""

    name: Literal["waiting", "running", "ended"]
    log: Path
    words: str = ""
    """Of one that has ended:
    what the cluster knows of it, for runs that were killed and say nothing."""


@runtime_checkable
class Cluster(Protocol):
    """Starts runs, and knows which are at work."""

    def poll(self) -> dict[str, Phase]:
        """The phase of every run, by name; start more if there is room."""
        ...

    def stop(self) -> None:
        """Ask runs at work to write a checkpoint and end; start no more."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
