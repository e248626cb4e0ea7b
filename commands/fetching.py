"""`fetch`: the released runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from commands.shared import progress_shown


@dataclass(frozen=True)
class Fetch:
    """Download the released runs from where they are published, checked by their sha256."""

    path: Annotated[Path, tyro.conf.Positional] = Path("curves.csv.gz")
    """Where to put them."""

    def run(self) -> None:
        """Download, check, and say where the file is."""
        from fit.runs import fetch

        with progress_shown("bytes") as progress:
            path = fetch(self.path, progress=lambda done, total: progress(done, total or 0, self.path.name))
        print(f"{path}: the released runs, checked")
