"""The cache can be listed and cleared, and nothing else is."""

from pathlib import Path

import pytest

from cli import main
from tests.training.tiny_runs import write_corpus
from training.cache import cache_folder, entries
from training.config import DataOptions
from training.text.prepare import prepare


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tokens, a tokenizer, programs, and what killed processes and others have left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(DataOptions(str(write_corpus(tmp_path / "corpus")), "bpe:300"), cache_folder())
    for name in (".tokens-abc.12-34.partial/train-00000.bin", "xla-abc/program", "others/precious"):
        (cache_folder() / name).parent.mkdir()
        (cache_folder() / name).write_bytes(b"x" * 3_000_000)
    return cache_folder()


def test_entries_are_listed_by_kind_and_size_and_only_those_are_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = entries(cache)
    assert sorted(entry.kind for entry in found) == ["programs", "tokenizer", "tokens", "tokens, incomplete"]
    assert [entry.bytes for entry in found[:2]] == [3_000_000, 3_000_000]
    for entry in found:
        files = [entry.path] if entry.path.is_file() else [path for path in entry.path.rglob("*") if path.is_file()]
        assert entry.bytes == sum(path.stat().st_size for path in files)
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(entry.path.name in line for entry, line in zip(found, lines, strict=False))
    assert main(["cache", "--clear", "--older-than", "1"]) == 0
    assert entries(cache) == found
    assert main(["cache", "--clear"]) == 0
    assert [path.name for path in cache.iterdir()] == ["others"]
    assert main(["cache"]) == 0
