"""How often tokens change experts between evaluations on the held-out text."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from common.files import write_atomically

CHOICES = "choices"
"""Their folder within a run's."""


class Choices:
    """The choices of each evaluation of a run: a file per step, 2 bytes per choice.

    Files are never removed, so that a run continued from an old checkpoint finds the choices it
    compares with.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def changed(self, step: int, choices: Int[np.ndarray, "layers tokens k"]) -> float | None:
        """Fraction of `choices` after `step` steps that differ from the previous evaluation's.

        None if there was none. Choices of -1 (padding) are excluded. Saves `choices` for the next
        evaluation.
        """
        content = io.BytesIO()
        np.save(content, choices.astype(np.int16))
        write_atomically(self._folder / f"{step}.npy", content.getvalue())
        before = max(
            (int(path.stem) for path in self._folder.glob("*.npy") if int(path.stem) < step),
            default=None,
        )
        if before is None:
            return None
        were = np.load(self._folder / f"{before}.npy")
        kept = np.any(choices[..., :, None] == were[..., None, :], axis=-1)
        return float(1 - np.mean(kept[choices[..., 0] >= 0]))
