"""A run in this process: what it writes, what it refuses, and where it ends when something is wrong."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError, WorkError
from fit.runs import load_runs
from reference.objective import PADDING, Report, objective
from reference.routed import RoutedFeedForward
from reference.routers import Hash
from reference.routers.hash import HashRouter, balanced_table
from tests.training.tiny_runs import Heard, result, tiny, write_corpus
from training.choices import Choices
from training.config import TrainConfig
from training.evaluate import evaluate, sums_of
from training.folder import data_of, locked
from training.load import evaluate_run, load_run, sample_run
from training.run import Outcome, train
from training.sampling import sample
from training.step import TrainState, train_step
from training.text.batches import EvaluationBatches, Sequences
from training.text.prepare import prepare
from training.text.read import read_corpus
from training.text.split import Fractions
from training.text.tokenizer import ByteTokenizer
from training.text.write import write_shards
from training.toml import from_toml


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of tokens."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(cache: Path) -> Path:
    """Text for all runs here."""
    return write_corpus(cache / "corpus")


def run(config: TrainConfig, folder: Path, cache: Path) -> tuple[Outcome, Heard]:
    """Train, and what was shown meanwhile."""
    heard = Heard()
    return train(config, folder, heard, cache), heard


@pytest.fixture(scope="module")
def routed(corpus: Path, cache: Path) -> Path:
    """A run of 12 steps with S-BASE, done."""
    outcome, heard = run(tiny(corpus), cache / "routed", cache)
    assert [progress.step for progress in heard.steps] == list(range(1, 13))
    assert outcome.held_out == heard.steps[-1].held_out
    return cache / "routed"


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_curves_are_what_fit_reads(routed: Path) -> None:
    runs = load_runs(routed / "curves.csv")
    assert len(runs) == 1
    with (routed / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert [row["tokens_seen"] for row in rows] == [str(step * 4 * 16) for step in (4, 8, 12)]
    assert {row["loss_c4"] for row in rows} == {""}
    # Text that repeats is learnt in a few steps: uniform over 257 bytes is 5.5.
    assert float(rows[-1]["loss_validation"]) < 4


def test_a_row_of_the_curves_has_the_other_texts_losses_and_what_the_routers_did_since_the_row_before(
    routed: Path, corpus: Path, cache: Path
) -> None:
    with (routed / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Rounding: batches are summed in float32, and the rows are other ones.
    assert float(rows[-1]["loss_all"]) == pytest.approx(evaluate_run(routed, str(corpus), cache, tokens=500).nats_per_token, rel=1e-6)
    splits = [float(rows[-1][name]) for name in ("loss_test", "loss_validation", "loss_all")]
    assert len({*splits}) == 3
    steps = [record["metrics"] for record in lines(routed) if "loss" in record]
    for i, row in enumerate(rows):
        for name in ("load_max_over_mean", "entropy", "dead_experts", "dropped_fraction", "gate", "marginal_error"):
            assert float(row[f"router_{name}"]) == pytest.approx(np.mean([step[name] for step in steps[4 * i : 4 * i + 4]]), rel=1e-12)
        assert row["router_advantage"] == ""
    assert rows[0]["router_changed"] == ""
    assert all(0 < float(row["router_changed"]) < 1 for row in rows[1:])
    assert load_runs(routed / "curves.csv", target="loss_test").loss.tolist() == [splits[0]]


def test_the_fraction_of_changed_choices_is_counted_over_tokens_that_have_a_target(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    first = np.array([[[0, 1], [2, 3], [1, 0], [-1, -1]]])
    then = np.array([[[1, 0], [2, 0], [2, 3], [-1, -1]]])
    assert choices.changed(0, first) is None
    choices.save(10, first)
    # Of six choices one is another expert in the second token, both are in the third.
    assert choices.changed(10, then) == pytest.approx(3 / 6)
    assert choices.changed(10, first) == 0
    # Of fewer tokens, as with another `evaluation_tokens`.
    assert choices.changed(10, first[:, :2]) is None


def test_only_the_choices_that_a_checkpoint_needs_are_kept(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    for step in (10, 20, 30, 40, 50):
        choices.save(step, np.zeros((1, 2, 1), int))
    # Nothing is known of what will be continued from.
    choices.keep([])
    assert len(list(tmp_path.iterdir())) == 5
    choices.keep([15, 35])
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == [10, 30, 40, 50]


def test_every_step_and_evaluation_has_its_line(routed: Path) -> None:
    records = lines(routed)
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert steps[0]["tokens_per_second"] is None
    assert all(record["tokens_per_second"] > 0 and record["gradient_norm"] > 0 for record in steps[1:])
    # Warm-up over three steps from 1e-4 to 1e-2; the first step has the first rate. float32.
    np.testing.assert_allclose([record["learning_rate"] for record in steps[:4]], [1e-4, 3.4e-3, 6.7e-3, 1e-2], rtol=1e-5)
    assert steps[-1]["learning_rate"] > 1e-3
    assert set(steps[0]["layers"]) >= {"load_max_over_mean", "entropy", "dead_experts", "dropped_fraction"}
    evaluations = [record for record in records if "evaluation" in record]
    assert [record["step"] for record in evaluations] == [4, 8, 12]
    for record in evaluations:
        # Fractions rounded to six places.
        np.testing.assert_allclose(np.sum(record["evaluation"]["load"], axis=1), [1.0], atol=1e-5)


def test_other_options_for_the_same_folder_are_refused_by_name(routed: Path, corpus: Path, cache: Path) -> None:
    before = result(routed, 12)
    with pytest.raises(InputError, match=r"model\.experts: 4 -> 8.*run\.seed: 0 -> 1"):
        run(tiny(corpus, experts=8, seed=1), routed, cache)
    assert result(routed, 12) == before
    # Another mesh is no other run; this one is done.
    outcome, heard = run(tiny(corpus, mesh="data=2"), routed, cache)
    assert not heard.steps
    assert outcome.step == 12


def test_other_text_or_another_tokenizer_for_the_same_folder_is_refused(routed: Path, corpus: Path, cache: Path, tmp_path: Path) -> None:
    data = json.loads((routed / "data.json").read_text())
    # Without the manifest, by which it would be known as damage.
    for name in ("sample.txt", "digests.json"):
        (routed / name).rename(tmp_path / name)
    try:
        for changed, said in (({"train_tokens": 1}, "started with 1 training tokens"), ({"vocabulary": 9}, "a vocabulary of 9 ids")):
            (routed / "data.json").write_text(json.dumps(data | changed))
            with pytest.raises(InputError, match=said):
                run(tiny(corpus), routed, cache)
    finally:
        (routed / "data.json").write_text(json.dumps(data, indent=1) + "\n")
        for name in ("sample.txt", "digests.json"):
            (tmp_path / name).rename(routed / name)


def test_a_run_whose_corpus_has_moved_goes_on_and_is_evaluated_and_one_of_other_text_is_refused(
    routed: Path, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    before = result(routed, 12)
    loss = evaluate_run(routed, None, cache)
    shutil.copytree(corpus, tmp_path / "moved")
    outcome, heard = run(tiny(tmp_path / "moved"), routed, cache)
    assert (outcome.step, heard.steps) == (12, [])
    assert result(routed, 12) == before
    assert str(tmp_path / "moved") in (routed / "config.toml").read_text()
    # The corpus is gone, its tokens are in the cache.
    shutil.rmtree(tmp_path / "moved")
    assert evaluate_run(routed, None, cache) == loss
    (write_corpus(tmp_path / "other") / "03.txt").write_text("another text\n")
    with pytest.raises(InputError, match=r"was started with \d+ (training|held-out) tokens, the corpus now gives"):
        run(tiny(tmp_path / "other"), routed, cache)
    assert result(routed, 12) == before
    run(tiny(corpus), routed, cache)
    assert result(routed, 12) == before


def test_text_of_the_same_length_but_other_content_is_refused(corpus: Path, cache: Path, tmp_path: Path) -> None:
    folder, texts = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(corpus, texts)
    config = tiny(texts, router="dense", steps=1, test=0.0, also="")
    run(config, folder, cache)
    before = json.loads((folder / "data.json").read_text())
    path = texts / "03.txt"
    original, data = path.read_text(), before
    # A document's split is by its hash: the first edit that leaves it in its own.
    for letter in "bcdefghijklmnop":
        path.write_text(letter + original[1:])
        tokenizer, prepared = prepare(config.data, cache)
        data = dataclasses.asdict(data_of(tokenizer, prepared))
        if all(data[name] == before[name] for name in ("train_tokens", "held_out_tokens")):
            break
    assert {name for name in data if data[name] != before[name]} == {"content", "parts"}
    with pytest.raises(InputError, match=r"was started with text of SHA-256 \w{12}, the corpus now gives text of SHA-256 \w{12}"):
        run(dataclasses.replace(config, run=dataclasses.replace(config.run, steps=2)), folder, cache)
    path.write_text(original)
    assert run(dataclasses.replace(config, run=dataclasses.replace(config.run, steps=2)), folder, cache)[0].step == 2


def test_what_moves_nothing_may_be_changed_when_a_run_is_continued(corpus: Path, cache: Path) -> None:
    folder = cache / "changed"
    run(tiny(corpus, router="dense", steps=6), folder, cache)
    other = {"mesh": "data=1,model=1", "accumulate": 2, "keep": 4, "keep_every": 2, "evaluate_every": 3, "checkpoint_every": 2}
    changed = tiny(corpus, router="dense", steps=8, **other, evaluation_tokens=300, also=f"other={corpus}")
    outcome, heard = run(changed, folder, cache)
    assert [progress.step for progress in heard.steps] == [7, 8]
    assert from_toml((folder / "config.toml").read_text(), "config.toml") == changed
    expected, _ = run(tiny(corpus, router="dense", steps=8, evaluation_tokens=300), cache / "unchanged", cache)
    # The sums of two microbatches, in float32, over two steps.
    assert outcome.held_out == pytest.approx(expected.held_out, rel=1e-5)
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss_all"] != "", row["loss_other"] != "") for row in rows] == [
        ("4", True, False),
        ("6", True, False),
        ("8", False, True),
    ]
    assert outcome.sample != ""
    assert run(changed, folder, cache)[0] == outcome


def test_a_run_with_the_stable_schedule_may_be_made_longer_before_its_decay_as_if_it_had_been(corpus: Path, cache: Path) -> None:
    stable: dict[str, Any] = {"router": "dense", "schedule": "stable", "decay_steps": 4, "checkpoint_every": 2, "evaluate_every": 20}
    folder = cache / "longer"
    # Stopped where its decay would begin, after step 8 of 12: nothing of the schedule's end has happened.
    run(tiny(corpus, **stable, steps=8, schedule_steps=12), folder, cache)
    run(tiny(corpus, **stable, steps=16, schedule_steps=16), folder, cache)
    run(tiny(corpus, **stable, steps=16, schedule_steps=16, keep=9), cache / "at-once", cache)
    assert result(folder, 16)["state"] == result(cache / "at-once", 16)["state"]
    with pytest.raises(InputError, match=r"its decay begins after step 12, but its newest checkpoint is of step 16: .* begin_from"):
        run(tiny(corpus, **stable, steps=20, schedule_steps=20), folder, cache)
    with pytest.raises(InputError, match=r"has a run of 16 steps, but run\.steps is 15"):
        run(tiny(corpus, **stable, steps=15, schedule_steps=16), folder, cache)
    # In another folder, from a checkpoint that is kept from before the decay.
    branch = tiny(corpus, **stable, steps=18, schedule_steps=18, begin_from=str(cache / "at-once"))
    _, heard = run(branch, cache / "longer-branch", cache)
    assert heard.steps[0].step == 13
    run(tiny(corpus, **stable, steps=18, schedule_steps=18), cache / "at-once-18", cache)
    assert result(cache / "longer-branch", 18)["state"] == result(cache / "at-once-18", 18)["state"]


def test_a_cosine_schedule_is_not_made_longer(corpus: Path, cache: Path) -> None:
    folder = cache / "changed"
    with pytest.raises(InputError, match=r"optimizer\.steps: 100 -> 200.*a cosine schedule depends on its last step throughout"):
        run(tiny(corpus, router="dense", steps=20, schedule_steps=200), folder, cache)


def test_a_loss_that_is_not_finite_is_named_and_nothing_after_it_is_kept(corpus: Path, cache: Path) -> None:
    config = tiny(corpus, router="dense", peak_learning_rate=1e30, checkpoint_every=1, keep=3)
    folder = cache / "diverging"
    with pytest.raises(WorkError, match=r"step \d+ is (nan|inf); the checkpoint of step \d+ is kept") as raised:
        run(config, folder, cache)
    last_good = max(record["step"] for record in lines(folder))
    assert f"step {last_good + 1} is" in str(raised.value)
    kept = sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir())
    assert kept[-1] == last_good
    # Begun again from there, it meets the same.
    with pytest.raises(WorkError) as again:
        run(config, folder, cache)
    assert str(again.value) == str(raised.value)


def test_of_a_loss_that_is_not_finite_the_first_layer_is_named_whose_logits_are_not_either(corpus: Path, cache: Path) -> None:
    config = tiny(corpus, peak_learning_rate=1e30, routing_frequency=1.0)
    with pytest.raises(WorkError, match=r"step \d+ is nan, and so are the logits of the router in routed layer 0; there is no checkpoint"):
        run(config, cache / "diverging-routed", cache)


@pytest.mark.usefixtures("fresh_optimizers")
def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is(corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _one_bad_gradient(state: TrainState, *arguments: Any) -> tuple[TrainState, Report]:
        after, report = train_step(state, *arguments)
        assert report.gradient_norm is not None
        return after, dataclasses.replace(report, gradient_norm=jnp.where(state.step == 4, jnp.nan, report.gradient_norm))

    monkeypatch.setattr("training.loop.train_step", _one_bad_gradient)
    with pytest.raises(WorkError, match=r"^the gradient's norm of step 5 is nan; the checkpoint of step 3 is kept"):
        run(tiny(corpus, router="dense"), cache / "bad-gradient", cache)
    assert lines(cache / "bad-gradient")[-1]["step"] == 4


def test_the_sample_at_the_end_begins_a_document(corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[list[int]] = []

    def _sample(model: Any, each: Any, length: int, keys: Any) -> Any:
        prompts.extend(prompt.tolist() for prompt in each)
        return sample(model, each, length, keys)

    monkeypatch.setattr("training.run.sample", _sample)
    run(tiny(corpus, router="dense", steps=1), cache / "prompt", cache)
    assert prompts == [[ByteTokenizer().end]]


def test_balanced_hash_tables_are_balanced_on_the_training_text(corpus: Path, cache: Path) -> None:
    config = dataclasses.replace(tiny(corpus, router="hash", steps=1), routers=TrainConfig().routers | {"hash": Hash("balanced")})
    run(config, cache / "balanced", cache)
    ((_, stream),) = prepare(config.data, cache)[1].streams("train")
    counts = np.bincount(stream.read(0, len(stream)), minlength=257)
    feedforward = load_run(cache / "balanced").model.groups.blocks[-1].feedforward
    assert isinstance(feedforward, RoutedFeedForward)
    assert isinstance(feedforward.router, HashRouter)
    for table in np.asarray(feedforward.router.table):
        load = np.bincount(table[:, 0], weights=counts, minlength=4)
        # The commonest token of this text is a sixth of it and less than an expert's fourth, so that a balanced table comes within a
        # tenth of the mean; one of equal counts, which knows nothing of the text, is off by more.
        assert load.max() / load.mean() < 1.1
    blind = np.bincount(balanced_table(np.ones(257, np.int64), 4, 1)[:, 0], weights=counts, minlength=4)
    assert blind.max() / blind.mean() > 1.1


def test_a_folder_in_which_another_trains_is_refused_and_left_alone(
    corpus: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.folder.PATIENCE_SECONDS", 0.1)
    folder = tmp_path / "run"
    with locked(folder, lambda message: None):
        before = sorted(folder.rglob("*"))
        heard = Heard()
        with pytest.raises(WorkError, match="another process is using") as raised:
            train(tiny(corpus), folder, heard, cache)
        assert "\n" not in str(raised.value)
        assert "waiting for it to end" in heard.events[-1]
        assert sorted(folder.rglob("*")) == before
    with locked(folder, heard.on_event):
        assert len(heard.events) == 1 + heard.events.index(f"another process is using {folder}; waiting for it to end")


def broken_corpora(folder: Path) -> dict[str, tuple[Path, str]]:
    """Text that cannot be trained on, and what is said of it."""
    empty, bad, short, cut = (folder / name for name in ("empty", "bad", "short", "cut"))
    for each in (empty, bad, short):
        each.mkdir()
    (empty / "a.txt").write_text("")
    write_corpus(bad / "good")
    (bad / "z.txt").write_bytes(b"abc\xff\xfe")
    for i in range(10):
        (short / f"{i}.txt").write_text(f"{i}\n")
    write_shards(read_corpus(str(bad / "good")), ByteTokenizer(), cut, Fractions(0.2, 0.2))
    with (cut / "train-00000.bin").open("r+b") as file:
        file.truncate(100)
    return {
        "empty": (empty, "no text"),
        "bad": (bad, "line 1: byte 3 is not UTF-8"),
        "short": (short, "fewer than a batch of"),
        "cut": (cut, "truncated"),
    }


@pytest.mark.parametrize("kind", ["empty", "bad", "short", "cut"])
def test_text_that_cannot_be_trained_on_is_refused_before_the_first_step(kind: str, cache: Path, tmp_path: Path) -> None:
    source, said = broken_corpora(tmp_path)[kind]
    with pytest.raises(InputError, match=said) as raised:
        run(tiny(source), tmp_path / "run", cache)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_step_in_parts_is_the_step(corpus: Path, cache: Path) -> None:
    whole, in_parts = (run(tiny(corpus, router="dense", accumulate=n), cache / f"parts-{n}", cache)[1] for n in (1, 2))
    # A sum in another order, 1e-7, through 12 steps of AdamW.
    for one, other in zip(whole.steps, in_parts.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
    assert whole.steps[-1].held_out == pytest.approx(in_parts.steps[-1].held_out, rel=1e-4)


def test_a_run_that_begins_from_a_longer_ones_stable_part_is_the_short_run(corpus: Path, cache: Path) -> None:
    stable: dict[str, Any] = {"router": "dense", "schedule": "stable", "decay_steps": 4, "checkpoint_every": 2, "keep_every": 4}
    run(tiny(corpus, **stable, schedule_steps=12), cache / "long", cache)
    assert (cache / "long" / "checkpoints" / "step_4").is_dir()
    run(tiny(corpus, **stable, steps=8, schedule_steps=8), cache / "short", cache)
    branch = tiny(corpus, **stable, steps=8, schedule_steps=8, begin_from=str(cache / "long"))
    _, heard = run(branch, cache / "branch", cache)
    assert [progress.step for progress in heard.steps] == [5, 6, 7, 8]
    found, expected = result(cache / "branch", 8), result(cache / "short", 8)
    assert found["state"] == expected["state"]
    assert found["curves"].splitlines()[-1] == expected["curves"].splitlines()[-1]
    # The peak until step 4, then down in a line: the last step has a quarter of the way to go.
    np.testing.assert_allclose(
        [r["learning_rate"] for r in lines(cache / "short") if "loss" in r][3:], np.linspace(1e-2, 1e-3, 5)[[0, 0, 1, 2, 3]], rtol=1e-5
    )
    with pytest.raises(InputError, match=r"cannot begin.*model\.size"):
        run(dataclasses.replace(branch, model=dataclasses.replace(branch.model, size="60K")), cache / "unlike", cache)


def test_a_loaded_run_gives_the_loss_that_its_curves_say(routed: Path, corpus: Path, cache: Path) -> None:
    found = evaluate_run(routed, None, cache)
    # The same batches through the same program, on a mesh of one device there and on none here.
    assert found.nats_per_token == pytest.approx(float((routed / "curves.csv").read_text().splitlines()[-1].split(",")[6]), rel=1e-5)
    assert found.tokens == 500 < found.of_tokens
    # Whatever the batch: sums of four rows in float32 instead of one.
    sequences = [Sequences(stream, 16) for _, stream in prepare(tiny(corpus).data, cache)[1].streams("held_out")]
    model = load_run(routed).model
    one_by_one = evaluate(EvaluationBatches(sequences, 1, tokens=500), lambda rows: jax.jit(sums_of)(model, rows))
    assert (one_by_one.loss, one_by_one.targets) == (pytest.approx(found.nats_per_token, rel=1e-6), 500)
    assert load_run(routed).step == 12


def test_the_loss_of_any_text_is_that_of_all_its_documents_in_a_row(routed: Path, cache: Path, tmp_path: Path) -> None:
    texts = ["the cat sat on a mat\n", "and saw what the dog had done\n"]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    # Not a document: neither its end nor anything else of it is predicted.
    (tmp_path / "0-empty.txt").write_text("")
    found = evaluate_run(routed, str(tmp_path), cache)
    loaded = load_run(routed)
    tokenizer, model = loaded.tokenizer, loaded.model
    ids = np.concatenate([part for text in texts for part in (tokenizer.encode(text), [tokenizer.end])])
    rows = [ids[i : i + 17] for i in range(0, len(ids) - 1, 16)]
    tokens = np.stack([np.pad(row, (0, 17 - len(row)), constant_values=PADDING) for row in rows]).astype(np.int32)
    _, report = jax.jit(lambda tokens: objective(model, tokens, inference=True))(jnp.asarray(tokens))
    # One float32 mean in another order.
    assert found.nats_per_token == pytest.approx(float(report.loss), rel=1e-5)
    assert found.tokens == len(ids) - 1
    # All bytes but the first are targets; each document's end is one that is no byte.
    assert found.bytes == sum(map(len, texts)) - 1
    assert found.bits_per_byte == pytest.approx(float(report.loss) * (len(ids) - 1) / found.bytes / math.log(2), rel=1e-5)


def test_a_sample_goes_on_from_its_prompt_and_is_the_seeds(routed: Path) -> None:
    first, again, other = (sample_run(routed, "the cat", tokens=20, seed=seed).texts[0] for seed in (1, 1, 2))
    assert first.startswith("the cat")
    assert first == again != other
    greedy = [sample_run(routed, "the cat", tokens=20, temperature=0.0, seed=seed).texts for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_a_folder_without_a_checkpoint_cannot_be_loaded(routed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration"):
        load_run(tmp_path)
    (tmp_path / "config.toml").write_text((routed / "config.toml").read_text())
    with pytest.raises(InputError, match="no checkpoint, none saved yet"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="no checkpoint of step 5, only of steps 9, 12"):
        load_run(routed, step=5)
