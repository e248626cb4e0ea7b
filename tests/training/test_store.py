"""Runs and texts in object stores: fsspec's memory:// for files, and a double of Google's for a whole run."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cli import main
from common.errors import InputError, WorkError
from common.files import store_url
from tests.training.gcs_double import BUCKET, environment, serve
from tests.training.tiny_runs import ROOT, Quiet, Started, result, tiny, train_here, write_corpus
from training.run import train
from training.store import OWNER, Mirror
from training.text import fetch
from training.text.prepare import prepare
from training.text.read import documents, read_corpus
from training.text.split import Fractions
from training.text.tokenizer import ByteTokenizer
from training.text.write import write_shards


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    """An empty store in memory, and an empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    files: Any = fsspec.filesystem("memory")
    files.store.clear()
    fetch.copy_of.cache_clear()
    yield files
    files.store.clear()


def put(files: Any, folder: Path, url: str) -> None:
    """Copy a folder into the store."""
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.mark.parametrize(
    ("path", "url"),
    [("gs://b/run", "gs://b/run"), ("s3://b", "s3://b"), ("runs/a", None), ("/a:b/c", None), ("C:/runs", None), ("gs:", None)],
)
def test_a_url_is_one_though_pathlib_takes_a_slash_from_it(path: str, url: str | None) -> None:
    assert store_url(path) == store_url(Path(path)) == url


def test_a_working_copy_goes_to_the_store_and_comes_back_on_another_machine(store: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "choices").mkdir(parents=True)
    there.mkdir()
    for name, text in {"config.toml": "a", "choices/4.npy": "b", "sample.txt": "c", "lock": "", "remote": "x", "wandb/run": "d"}.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    one, other = Mirror(here, "memory://bucket/run"), Mirror(there, "memory://bucket/run")
    one.take()
    one.upload()
    assert {name.removeprefix("/bucket/run/") for name in store.find("/bucket/run")} == {
        "config.toml",
        "choices/4.npy",
        "sample.txt",
        OWNER,
    }
    (there / "stale.txt").write_text("of an earlier run")
    store.pipe_file("/bucket/run/checkpoints/step_3/state/big", b"not copied")
    other.download()
    assert {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()} == {
        "config.toml",
        "choices/4.npy",
        "sample.txt",
    }
    # What is removed or changed on one machine is so in the store, and nothing else is put there again.
    (here / "choices/4.npy").unlink()
    (here / "config.toml").write_text("longer")
    store.pipe_file("/bucket/run/sample.txt", b"untouched")
    one.upload()
    assert not store.exists("/bucket/run/choices/4.npy")
    assert (store.cat_file("/bucket/run/config.toml"), store.cat_file("/bucket/run/sample.txt")) == (b"longer", b"untouched")


def test_a_process_whose_run_another_has_taken_over_ends_at_its_next_upload(store: Any, tmp_path: Path) -> None:
    one, other = Mirror(tmp_path, "memory://bucket/run"), Mirror(tmp_path, "memory://bucket/run")
    one.take()
    one.upload()
    other.take()
    (tmp_path / "metrics.jsonl").write_text("more")
    with pytest.raises(WorkError, match=r"^memory://bucket/run is now trained by another process, on \S+; this one ends$"):
        one.upload()
    assert not store.exists("/bucket/run/metrics.jsonl")
    other.upload()
    assert store.exists("/bucket/run/metrics.jsonl")


def test_a_run_where_orbax_cannot_write_is_refused_and_no_folder_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chdir(tmp_path)
    try:
        assert main(["train", "--steps", "1", "--out", "s3://bucket/run"]) == 2
    finally:
        os.chdir(ROOT)
    error = capsys.readouterr().err
    assert "s3://bucket/run: no run can be there, for Orbax writes checkpoints to folders and gs:// only;\n" in error
    assert len(error.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_package_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _missing(scheme: str) -> Any:
        raise ImportError(f"Please install {scheme}fs")

    monkeypatch.setattr(fsspec, "filesystem", _missing)
    with pytest.raises(WorkError, match=r"gs://bucket/run needs a package for gs:// \(Please install gsfs\); uv sync --extra gcs"):
        train(tiny(tmp_path), Path("gs://bucket/run"), Quiet(), tmp_path)


def test_texts_in_a_store_are_those_texts(store: Any, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    put(store, corpus, "memory://bucket/texts")
    store.pipe_file("memory://bucket/one.jsonl", b'{"text": "first"}\n{"text": "second"}\n')
    local = prepare(tiny(corpus).data, tmp_path)[1]
    data = dataclasses.replace(tiny(corpus).data, corpus="memory://bucket/texts", also="all=memory://bucket/texts")
    # By content: the same tokens in the cache, not written again.
    assert prepare(data, tmp_path)[1] == local
    assert len(list(documents("memory://bucket/texts/0*.txt"))) == 10
    assert ["".join(document.pieces) for document in documents("memory://bucket/one.jsonl")] == ["first", "second"]
    # In the next process: what has changed there is fetched anew, what is gone is gone.
    fetch.copy_of.cache_clear()
    store.pipe_file("memory://bucket/one.jsonl", b'{"text": "third, and longer"}\n')
    store.rm("memory://bucket/texts/07.txt")
    assert ["".join(document.pieces) for document in documents("memory://bucket/one.jsonl")] == ["third, and longer"]
    assert len(list(documents("memory://bucket/texts"))) == 29
    with pytest.raises(InputError, match=r"corpus memory://bucket/none does not exist"):
        list(documents("memory://bucket/none"))


def test_shards_in_a_store_are_trained_on(store: Any, tmp_path: Path) -> None:
    write_shards(read_corpus(str(write_corpus(tmp_path / "corpus"))), ByteTokenizer(), tmp_path / "shards", Fractions(0.2))
    put(store, tmp_path / "shards", "memory://bucket/shards")
    data = dataclasses.replace(tiny(Path("x")).data, corpus="memory://bucket/shards", held_out=0.05, test=0.0, also="")
    tokenizer, text = prepare(data, tmp_path)
    assert (tokenizer.name, text.tokens("train"), text.content) == ("bytes", *_of(tmp_path / "shards"))


def _of(shards: Path) -> tuple[int, str]:
    index = json.loads((shards / "tokens.json").read_text())
    return sum(shard["tokens"] for shard in index["files"]["train"]), index["content"]


@pytest.mark.extras
def test_a_run_in_a_bucket_is_killed_resumed_shown_evaluated_and_sampled(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, bucket = serve()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    corpus = programs / "corpus"
    config = tiny(corpus, test=0.0, also="")
    train_here(config, tmp_path / "local", programs)
    url = f"gs://{BUCKET}/runs/one"
    first = Started(config, Path(url), tmp_path)
    first.until("step", 8)
    first.kill()
    assert not any(name.endswith("sample.txt") for name in bucket.objects)
    # On another machine: with another cache.
    (tmp_path / "machine").mkdir()
    second = Started(config, Path(url), tmp_path / "machine")
    events = second.finish()
    assert second.process.returncode == 0, second.stderr()
    assert any(event.get("event", "").startswith("continuing after step") for event in events), events
    copied = tmp_path / "copied"
    for name, content in bucket.objects.items():
        path = copied / name.removeprefix("runs/one/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert result(copied, 12) == result(tmp_path / "local", 12)
    assert not Path("gs:").exists()
    for arguments, expected in (
        (["show", url], "layer 0: load"),
        (["eval", url, "--corpus", str(corpus), "--tokens", "100"], "nats per token"),
        (["sample", url, "--prompt", "the", "--tokens", "2"], "the"),
    ):
        done = subprocess.run([sys.executable, "cli.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    server.shutdown()
    server.server_close()
