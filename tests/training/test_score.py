"""Scores of texts, against one full pass per token, and through lm-eval itself."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from reference import objective
from tests.checks import unchecked
from tests.reference.small_models import drawn
from training.config import ModelOptions, TrainConfig
from training.load import LoadedRun
from training.score import Scorer, windows
from training.start import model_shapes
from training.text.tokenizer import ByteTokenizer
from training.weights import write_weights

CONTEXT = 16


@pytest.fixture(scope="module")
def run() -> LoadedRun:
    """A routed model with drawn weights."""
    config = TrainConfig(ModelOptions("27K", "switch", 4, context=CONTEXT))
    return LoadedRun(config, ByteTokenizer(), drawn(model_shapes(config.model_config(257), None, None)), 1)


@pytest.fixture(scope="module")
def log_probs(run: LoadedRun) -> Any:
    """Log-probabilities of the next token after one window of tokens, by NumPy in float64."""
    compiled = jax.jit(lambda model, tokens: model(tokens, inference=True)[0])

    def _after(tokens: list[int]) -> Any:
        padded = jnp.asarray([tokens + [0] * (CONTEXT - len(tokens))], jnp.int32)
        logits = np.asarray(compiled(run.model, padded)[0, len(tokens) - 1, :257], float)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    return _after


def document(text: str) -> list[int]:
    """The end token, and bytes."""
    return [256, *text.encode()]


def test_continuations_have_the_log_probability_of_their_tokens_one_by_one(
    run: LoadedRun, log_probs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of three sequences, logits of five positions at a time.
    monkeypatch.setattr(objective, "LOGITS", 5 * 3 * run.model.config.embedding_rows)
    likely = next(before for before in map(chr, range(33, 127)) if 32 <= np.argmax(log_probs(document(before))) < 127)
    best = chr(int(np.argmax(log_probs(document(likely)))))
    pairs = [("the cat", " sat"), ("", "a"), ("a long text before it, longer than the context", " end"), (likely, best)]
    found = Scorer(run, batch=3).continuations(pairs)
    for (before, after), score in zip(pairs, found, strict=True):
        tokens, start = document(before + after), len(document(before))
        # Of what is longer than the context, the last 16 tokens before the last one are seen by all.
        first = max(0, len(tokens) - 1 - CONTEXT)
        each = [log_probs(tokens[first:p])[tokens[p]] for p in range(start, len(tokens))]
        # float32 sums of 16 logits of size one, in another order.
        assert score.log_prob == pytest.approx(sum(each), abs=1e-4)
        assert score.greedy == (after == best)


def test_a_text_longer_than_the_context_has_each_token_scored_once_with_lm_evals_windows(run: LoadedRun, log_probs: Any) -> None:
    texts = ["x" * 3 + "abcdefghij" * 4, "short", "", "y" * 16, "z" * 17]
    for text, found in zip(texts, Scorer(run, batch=2).texts(texts), strict=True):
        tokens, expected = document(text), 0.0
        for first in range(1, len(tokens), CONTEXT):
            end = min(first + CONTEXT, len(tokens))
            # The last window is moved back, so that its inputs are as many as the context.
            window = tokens[max(0, end - 1 - CONTEXT) :]
            offset = len(tokens) - len(window)
            expected += sum(log_probs(window[: p - offset])[tokens[p]] for p in range(first, end))
        assert found == pytest.approx(expected, abs=3e-4)


def test_a_continuation_of_no_token_is_refused(run: LoadedRun) -> None:
    with pytest.raises(InputError, match=r"the continuation '' of 'a' adds no token"):
        Scorer(run).continuations([("a", "")])


def test_texts_are_continued_by_the_most_probable_tokens(run: LoadedRun, log_probs: Any) -> None:
    tokens = document("the")
    for _ in range(6):
        tokens.append(int(np.argmax(log_probs(tokens))))
    ends = tokens.index(256, 1) if 256 in tokens[1:] else len(tokens)
    whole = bytes(tokens[4:ends]).decode(errors="replace")
    scorer = Scorer(run, batch=2)
    # Of three texts in batches of two.
    assert scorer.continued(["the", "x", "the"], 6)[::2] == [whole, whole]
    assert len(whole) > 2


@pytest.mark.extras
@unchecked()
def test_lm_eval_runs_its_tasks_on_a_run(run: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    # All is local: nothing is to be asked of the hub, over and over where there is no network.
    for package in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(importlib.import_module(package), "HF_HUB_OFFLINE", True)
    path, data = tmp_path / "model.safetensors", tmp_path / "data.jsonl"
    write_weights(path, run.model, run.config, run.tokenizer, run.step)
    questions: list[dict[str, Any]] = [{"question": f"is {i} even?", "choices": [" yes", " no"], "answer": i % 2} for i in range(6)]
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    tasks = [
        common
        | {"task": "parity", "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}"}
        | {"doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}]},
        common
        | {"task": "perplexity", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
        | {"metric_list": [{"metric": "bits_per_byte"}]},
    ]
    harness: Any = importlib.import_module("training.harness")
    lm_eval: Any = importlib.import_module("lm_eval")
    # Without the thousands of tasks that it comes with.
    manager = importlib.import_module("lm_eval.tasks").TaskManager(include_defaults=False)
    options: Any = {"batch_size": 4, "bootstrap_iters": 0, "task_manager": manager}
    found = lm_eval.simple_evaluate("routelaw", model_args=f"run={path}", tasks=tasks, **options)["results"]
    scorer = Scorer(run)
    right = 0
    for question in questions:
        scores = scorer.continuations([(question["question"], choice) for choice in question["choices"]])
        right += int(np.argmax([score.log_prob for score in scores])) == question["answer"]
    assert found["parity"]["acc,none"] == right / 6
    texts = [question["question"] for question in questions]
    bits = -sum(scorer.texts(texts)) / sum(len(text.encode()) for text in texts) / np.log(2)
    assert found["perplexity"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    # Its windows are those of lm-eval.
    utils: Any = importlib.import_module("lm_eval.utils")
    tokens = list(range(40))
    theirs = list(map(utils.make_disjoint_window, utils.get_rolling_token_windows(tokens, 256, CONTEXT, 1)))
    ours = windows(0, np.array([256, *tokens], np.int32), 1, CONTEXT)
    assert [(list(w.tokens[:-1]), list(w.tokens[-w.scored :])) for w in ours] == [(c + t[:-1], t) for c, t in theirs]
    (whole,) = scorer.continued(["the"], 5)
    asked = [Request("the", {"until": ["never", whole[2]], "max_gen_toks": 5}), Request("the", {"max_gen_toks": 2})]
    found = harness.RunModel(str(path)).generate_until(asked)
    assert found == [whole[: whole.index(whole[2])], *scorer.continued(["the"], 2)]


class Request:
    """A request of lm-eval, as far as a model reads it."""

    def __init__(self, *args: Any) -> None:
        self.args = args
