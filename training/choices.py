"""How often a token changes its expert:
the choices on the held-out text, kept from one evaluation to the next."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from common.files import write_atomically

CHOICES = "choices"
"""Their folder, in a run's."""


class Choices:
    """The choices of each evaluation of a run: a file by step, 2 bytes a choice.

    None is removed, so that a run that goes on from an old checkpoint finds what it had.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def changed(self, step: int, choices: Int[np.ndarray, "layers tokens k"]) -> float | None:
        """The fraction of `choices`, made after `step` steps, that the evaluation before did not
        make; None if there was none.

        Tokens whose choices are -1 do not count. The choices are kept for the next evaluation.
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
