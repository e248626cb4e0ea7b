"""The text is the text asked for: keys know all that tokens are made of, and other text is refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from tests.checks import HANG_SECONDS
from tests.training.tiny_runs import ROOT, text_corpus, write_corpus
from training.config import DataOptions
from training.text.files import mixture
from training.text.given import settled
from training.text.prepare import PreparedText, prepare, tokenize, whole_text
from training.text.read import Corpus
from training.text.shards import TokenStream
from training.text.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
LINES = "".join(json.dumps({"text": f"text {i} " * 9, "body": f"body {i} " * 9}) + "\n" for i in range(30))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of tokens."""
    return tmp_path / "cache"


def prepared(data: DataOptions, cache: Path) -> tuple[PreparedText, list[str]]:
    """The text, and what was said."""
    events: list[str] = []
    return prepare(data, cache, events.append)[1], events


def text_of(text: PreparedText, split: Any) -> str:
    """The text of a split, with a newline after each document."""
    streams = [stream.read(0, len(stream)) for _, stream in text.streams(split)]
    return BYTES.decode(np.where((ids := np.concatenate(streams)) == BYTES.end, 10, ids))


def test_the_same_bytes_read_as_another_kind_or_field_are_another_text(tmp_path: Path, cache: Path) -> None:
    for suffix in ("jsonl", "txt"):
        (tmp_path / suffix).mkdir()
        (tmp_path / suffix / f"a.{suffix}").write_text(LINES)
    lines, _ = prepared(DataOptions(str(tmp_path / "jsonl")), cache)
    plain, _ = prepared(DataOptions(str(tmp_path / "txt")), cache)
    field, _ = prepared(DataOptions(str(tmp_path / "jsonl"), text_field="body"), cache)
    assert len({text.content for text in (lines, plain, field)}) == 3
    assert len(list(cache.glob("tokens-*"))) == 3
    assert '"text"' in text_of(plain, "train")
    assert "body" not in text_of(lines, "train")
    assert "text" not in text_of(field, "train")
    assert [text.read_as for text in (lines, plain, field)] == ["1 lines; field text", "1 text", "1 lines; field body"]


def test_of_two_processes_that_prepare_a_text_at_once_both_have_it(tmp_path: Path, cache: Path) -> None:
    data, others = DataOptions(str(write_corpus(tmp_path / "corpus"))), list[PreparedText]()

    def _meanwhile(message: str) -> None:
        if message.startswith("tokens of"):
            others.append(prepared(data, cache)[0])

    assert [prepare(data, cache, _meanwhile)[1]] == others
    assert [path.name for path in cache.iterdir() if path.name.startswith((".", "tokens"))] == [others[0].parts[0][1].folder.name]


def test_a_corpus_that_has_moved_is_the_same_corpus(tmp_path: Path, cache: Path) -> None:
    first, events = prepared(DataOptions(str(write_corpus(tmp_path / "one"))), cache)
    assert any("tokens of" in event for event in events)
    (tmp_path / "two").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "two" / "other")
    again, events = prepared(DataOptions(str(tmp_path / "two" / "other")), cache)
    assert again == first
    assert events == []


def test_a_trained_tokenizer_is_of_its_split_and_vocabulary(tmp_path: Path, cache: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    text_corpus(corpus, [f"{word} " * 40 for word in ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "lambda")])
    data = DataOptions(str(corpus), "bpe:280", held_out=0.05)
    others = [{"held_out": 0.6}, {"test": 0.3}, {"tokenizer": "bpe:281"}]
    models = [prepare(each, cache)[0].model for each in (data, *(dataclasses.replace(data, **other) for other in others))]
    assert len({*models}) == 4
    assert len(list(cache.glob("bpe-*.model"))) == 4
    # The same with a cache of its own: none was taken from another split.
    assert prepare(dataclasses.replace(data, held_out=0.6), tmp_path / "fresh")[0].model == models[1]


def test_a_tokenizer_is_not_trained_on_the_end_of_one_document(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "book.txt").write_text("the beginning of a book\n" * 60 + "zyxzyxzyx\n" * 60)
    tokenizer, text = prepare(DataOptions(str(tmp_path / "book.txt"), "bpe:280", held_out=0.29), cache)
    assert "zyx" not in "".join(tokenizer.decode(np.array([i], np.int32)) for i in range(279))
    held_out = text.streams("held_out")[0][1]
    assert set(tokenizer.decode(held_out.read(0, len(held_out)))) == set("zyx\n")


def test_one_file_is_a_corpus_and_its_last_part_is_held_out_and_named(tmp_path: Path, cache: Path) -> None:
    book = "".join(f"{i}: a line of the book\n" for i in range(400))
    (tmp_path / "book.txt").write_text(book)
    text, events = prepared(DataOptions(str(tmp_path / "book.txt")), cache)
    again, events_again = prepared(DataOptions(str(tmp_path / "book.txt")), cache)
    assert again == text
    assert f"its last {text.tokens('held_out')} tokens of {len(book) + 2:,} are held out" in events[-1]
    assert events_again == events[-1:]
    assert text_of(text, "train")[:-1] + text_of(text, "held_out")[:-1] == book


def test_another_text_can_be_held_out(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("to train on\n" * 30)
    (tmp_path / "b.txt").write_text("to hold out\n" * 3)
    text, _ = prepared(DataOptions(str(tmp_path / "a.txt"), held_out_corpus=str(tmp_path / "b.txt")), cache)
    assert text_of(text, "train") == "to train on\n" * 30 + "\n"
    assert text_of(text, "held_out") == "to hold out\n" * 3 + "\n"
    other, _ = prepared(DataOptions(str(tmp_path / "a.txt"), held_out_corpus=str(tmp_path / "a.txt")), cache)
    assert other.content != text.content


def test_a_mixture_is_its_texts_with_their_weights(tmp_path: Path, cache: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} line\n" * 50)
    names = [str(tmp_path / f"{name}.txt") for name in "ab"]
    text, _ = prepared(DataOptions(f"{names[0]}=2, {names[1]}=0.5"), cache)
    assert [weight for weight, _ in text.parts] == [2, 0.5]
    # Of each the last part is held out, from the line on that holds its twentieth.
    assert text_of(text, "train") == "a line\n" * 48 + "\n" + "b line\n" * 48 + "\n"
    other, _ = prepared(DataOptions(f"{names[0]}=1,{names[1]}=1"), cache)
    assert other.content != text.content
    with pytest.raises(InputError, match="each with a weight above 0"):
        DataOptions(f"{names[0]}=1,{names[1]}=0")
    # A name may have both signs.
    assert mixture("year=2024,a.txt") == {"year=2024,a.txt": 1}
    assert mixture("data/year=2024") == {"data/year=2024": 1}


@pytest.fixture
def shards(tmp_path: Path, cache: Path) -> Path:
    """Token shards with a tokenizer of 300 ids, a fifth held out."""
    corpus = write_corpus(tmp_path / "corpus")
    tokenize(DataOptions(str(corpus), "bpe:300", 0.2), tmp_path / "shards", cache, lambda message: None, lambda corpus: None)
    return tmp_path / "shards"


def test_shards_say_what_they_were_made_with_and_others_are_refused(shards: Path) -> None:
    data = DataOptions(str(shards))
    assert (settled(data).tokenizer, settled(data).held_out) == ("bpe:300", 0.2)
    assert settled(settled(data)) == settled(data)
    for change, words in (
        ({"tokenizer": "bpe:77"}, "the tokenizer bpe:300, not bpe:77"),
        ({"held_out": 0.5}, "held_out = 0.2, not 0.5"),
        ({"test": 0.1}, "test = 0, not 0.1"),
    ):
        with pytest.raises(InputError, match=words) as raised:
            settled(dataclasses.replace(data, **change))
        assert "\n" not in str(raised.value)


def test_shards_of_another_tokenizer_cannot_be_evaluated_on(shards: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="written with the tokenizer bpe:300, not bytes"):
        whole_text(str(shards), BYTES, cache, DataOptions())
    tokenizer, text = prepare(DataOptions(str(shards)), cache)
    again = whole_text(str(shards), tokenizer, cache, DataOptions())
    assert TokenStream(again, "held_out").read(0, 50).tolist() == text.streams("held_out")[0][1].read(0, 50).tolist()


def test_records_that_are_skipped_are_counted_and_named(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES + '{"text": "half \\ud83d an emoji"}\n{"no": 1}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 31: \\ud83d is half a surrogate pair.*--skip-bad-records"):
        prepare(DataOptions(str(path)), cache)
    text, events = prepared(DataOptions(str(path), skip_bad_records=True), cache)
    assert events[-1].startswith(f"2 records were skipped, the first of them: {path}, line 31: ")
    assert text.parts[0][1].skipped == 2


def test_what_a_folder_holds_besides_is_said(tmp_path: Path, cache: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "table.csv").write_text("text\n")
    _, events = prepared(DataOptions(str(corpus)), cache)
    assert f"{corpus}: 1 .csv file left out" in events


def test_in_a_thread_text_is_prepared_too(tmp_path: Path, cache: Path) -> None:
    found: list[PreparedText] = []
    data = DataOptions(str(write_corpus(tmp_path / "corpus")))
    thread = threading.Thread(target=lambda: found.append(prepared(data, cache)[0]))
    thread.start()
    thread.join()
    assert found == [prepared(data, cache)[0]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_it_at_once_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, ignored: bool
) -> None:
    data, documents = DataOptions(str(write_corpus(tmp_path / "corpus"))), Corpus.documents

    def _interrupted(self: Corpus) -> Any:
        for i, document in enumerate(documents(self)):
            if i == 28:
                # As Python does in callbacks of its garbage collector.
                with suppress(KeyboardInterrupt) if ignored else nullcontext():
                    os.kill(os.getpid(), number)
            yield document

    monkeypatch.setattr(Corpus, "documents", _interrupted)
    before, reached = signal.getsignal(number), list[int]()
    signal.signal(number, lambda *_: reached.append(1))
    try:
        outside = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            prepare(data, cache)
        assert signal.getsignal(number) is outside
    finally:
        signal.signal(number, before)
    # The handler outside, which would have gone on to write a checkpoint, was not asked.
    assert reached == []
    assert list(cache.rglob("*")) == []


TRAINING = """
import signal
from training.text.bpe import train_bpe
# A shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
def texts():
    for i in range(10**9):
        print(i, flush=True)
        yield " ".join(str((i * 7919 + j * 104729) % 1000003) for j in range(2000))
train_bpe(texts(), 4000)
"""


def test_the_training_of_a_tokenizer_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", TRAINING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
        children = (Path("/proc") / str(process.pid) / "task" / str(process.pid) / "children").read_text().split()
        assert len(children) == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_SECONDS)
    assert not (Path("/proc") / children[0]).exists()
