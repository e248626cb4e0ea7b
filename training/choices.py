"""How often tokens change experts between evaluations on the held-out text."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from common.files import write_atomically

CHOICES = "choices"
"""Their folder within a run's."""


class Choices:
    """The choices of a run's evaluations: a file per step, 2 bytes per choice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        """The file of the evaluation after `step` steps."""
        return self._folder / f"{step}.npy"

    def save(self, step: int, choices: Int[np.ndarray, "layers tokens k"]) -> str:
        """Write the choices after `step` steps; returns the file's SHA-256."""
        content = io.BytesIO()
        np.save(content, choices.astype(np.int16))
        write_atomically(self.path(step), content.getvalue())
        return hashlib.sha256(content.getvalue()).hexdigest()

    def digest(self, step: int) -> str | None:
        """SHA-256 of the file of `step`; None if there is none."""
        path = self.path(step)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def changed(self, before: int, choices: Int[np.ndarray, "layers tokens k"]) -> float | None:
        """Fraction of `choices` that differ from those after `before` steps.

        None if `before` is 0 (there was no evaluation), or if that one was of other tokens. Choices
        of -1 (padding) are excluded.
        """
        if before == 0:
            return None
        were = np.load(self.path(before))
        if were.shape != choices.shape:
            return None
        kept = np.any(choices[..., :, None] == were[..., None, :], axis=-1)
        return float(1 - np.mean(kept[choices[..., 0] >= 0]))

    def keep(self, checkpoints: Iterable[int]) -> None:
        """Remove the choices that no run continued from `checkpoints`, or from a later one, needs.

        It needs those of the last evaluation before its checkpoint, and writes all later ones.
        """
        steps = [int(path.stem) for path in self._folder.glob("*.npy") if path.stem.isdecimal()]
        needed = [max((e for e in steps if e <= step), default=0) for step in checkpoints]
        for step in steps:
            if needed and step < max(needed) and step not in needed:
                self.path(step).unlink(missing_ok=True)
