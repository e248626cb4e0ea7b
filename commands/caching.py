"""`cache`: what the user's cache holds."""

import time
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Cache:
    """List what the cache holds: tokens of corpora, trained tokenizers, compiled programs."""

    clear: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Remove all of it; later runs make anew what they need."""
    older_than: float = 0.0
    """Only what was last written this many days ago."""

    def run(self) -> None:
        """List, and remove if asked."""
        from training.cache import cache_folder, clear, entries

        folder, oldest = cache_folder(), time.time() - 86_400 * self.older_than
        found = [entry for entry in entries(folder) if entry.changed <= oldest]
        for entry in found:
            days = (time.time() - entry.changed) / 86_400
            print(f"{entry.bytes / 1e6:12,.1f} MB  {days:6.1f} days  {entry.kind:<18}  {entry.path.name}")
        total = sum(entry.bytes for entry in found) / 1e6
        if self.clear:
            clear(found)
        print(f"{total:12,.1f} MB in {folder}" + (", removed" if self.clear else ""))
