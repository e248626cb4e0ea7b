"""What `tokenize` and `train` say of text."""

import json
from pathlib import Path

import pytest

from cli import main


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["tokenize", "", "out"], "the corpus has an empty name"),
        (["train", "--corpus", ""], "--corpus is empty; leave it out for the default corpus"),
        (["tokenize", "text.txt", "s3://bucket/out"], "s3:/bucket/out is not a local path"),
        (["sweep", "text.txt", "--out", "gs://bucket/sweep"], "gs:/bucket/sweep is not a local path"),
        (["train", "--corpus", "nowhere.txt"], "corpus nowhere.txt does not exist"),
        (["tokenize", "a\x1b[2Jb.txt", "out"], r"corpus a\x1b[2Jb.txt matches no text files"),
    ],
)
def test_a_name_that_cannot_be_text_is_one_line_before_anything_is_made(
    command: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("some text\n")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_tokenize_says_what_it_left_out_skipped_and_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, out = tmp_path / "texts", tmp_path / "out"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"body": "one record\n" * 20}) + '\n{"body": 1}\n', encoding="utf-8")
    (folder / ".hidden.txt").write_text("hidden\n")
    arguments = ["tokenize", str(folder), str(out), "--text-field", "body"]
    assert main(arguments) == 2
    assert 'a.jsonl, line 2: no "body" of type string' in capsys.readouterr().err
    assert not out.exists()
    assert main([*arguments, "--skip-bad-records", "--held-out", "0.1"]) == 0
    printed = capsys.readouterr()
    assert f"{folder}: 1 hidden file left out" in printed.err
    assert f"1 records were skipped, the first of them: {folder / 'a.jsonl'}, line 2: " in printed.err
    assert printed.out.splitlines() == [
        f"{folder} is one document: its last part is held out",
        f"{out}, training: 199 tokens of 1 documents",
        f"{out}, held-out: 23 tokens of 1 documents",
    ]
