"""lm-eval (EleutherAI's Language Model Evaluation Harness) on a run: `--model routelaw`.

    uv run --extra lm-eval python -m training.harness run --model routelaw --model_args \\
        run=runs/one --tasks lambada_openai

is lm-eval's own command with one model more. From Python, `lm_eval.simple_evaluate(RunModel(...))`.
Needs the optional dependency lm-eval, which this module imports.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.load import load_run
from training.score import Scorer

NAME = "routelaw"

GENERATED = 256
"""Tokens that are generated where a task does not say how many."""

_api: Any = importlib.import_module("lm_eval.api.model")
_registry: Any = importlib.import_module("lm_eval.api.registry")
_Model: Any = _api.LM


@_registry.register_model(NAME)
class RunModel(_Model):
    """A run as lm-eval's `LM`."""

    def __init__(self, run: str, batch_size: int | str = 8, **_: Any) -> None:
        """`run`: the run's folder, or a file that `cli.py export` wrote."""
        super().__init__()
        self._scorer = Scorer(load_run(Path(run)), int(batch_size))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding gives it."""
        scores = self._scorer.continuations([request.args for request in requests])
        return [(score.log_prob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability of each whole text."""
        return self._scorer.texts([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy continuations, each up to its first stop text."""
        asked = [request.args for request in requests]
        lengths = [int(options.get("max_gen_toks", GENERATED)) for _, options in asked]
        found = [""] * len(asked)
        for length in set(lengths):
            some = [i for i, own in enumerate(lengths) if own == length]
            for i, after in zip(
                some, self._scorer.continued([asked[i][0] for i in some], length), strict=True
            ):
                found[i] = _up_to(after, asked[i][1].get("until") or [])
        return found


def _up_to(text: str, until: str | Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    stops = [until] if isinstance(until, str) else until
    return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


if __name__ == "__main__":
    importlib.import_module("lm_eval.__main__").cli_evaluate()
