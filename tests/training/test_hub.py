"""Data sets and tokenizers of Hugging Face's: written by its own libraries, and fetched from a hub on the loopback."""

import importlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.errors import InputError, WorkError
from tests.training.test_tokenizer import hugging_face
from tests.training.tiny_runs import ROOT
from training.config import DataOptions
from training.text.files import corpus_files
from training.text.hub import HubName, hub_name, saved_files
from training.text.prepare import prepare
from training.text.read import documents

TEXTS = [f"document {i}, größer als der letzte" for i in range(20)]


def read(source: str) -> list[str]:
    """The documents of a corpus."""
    return ["".join(document.pieces) for document in documents(source)]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hf:wikitext", ("wikitext", None, None, "train")),
        ("hf:a/b@main:test", ("a/b", "main", None, "test")),
        ("hf:a/b:raw-v1:validation", ("a/b", None, "raw-v1", "validation")),
    ],
)
def test_a_hub_name_has_a_revision_a_configuration_and_a_split(source: str, parts: tuple[Any, ...]) -> None:
    assert hub_name(source) == HubName(*parts)


@pytest.mark.parametrize("source", ["hf:", "hf:a:b:c:d", "hf:a:train[:10]", "hf:a:train+test"])
def test_a_hub_name_that_cannot_be_read_whole_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"give hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT"):
        hub_name(source)


def test_a_saved_data_set_is_the_files_that_it_lists(tmp_path: Path) -> None:
    for name, some in {"data-1.arrow": TEXTS[:12], "data-0.arrow": TEXTS[12:], "cache-of-a-map.arrow": ["left over"]}.items():
        pl.DataFrame({"text": some}).write_ipc_stream(tmp_path / name)
    listed = [{"filename": name} for name in ("data-1.arrow", "data-0.arrow")]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": listed}))
    assert read(str(tmp_path)) == TEXTS
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json: not what save_to_disk writes"):
        saved_files(tmp_path)


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WorkError, match=r"corpus hf:a needs the package datasets, which is not installed: uv sync --extra datasets$"):
        corpus_files("hf:a")


class Hub(BaseHTTPRequestHandler):
    """One repository with a tokenizer."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """The tokenizer, or 404."""
        found = self.path.split("?")[0] == "/some/model/resolve/main/tokenizer.json"
        content = hugging_face() if found else b"{}"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "f" * 40)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


def test_a_tokenizer_is_fetched_from_the_hub_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = """
from common.errors import WorkError
from training.text.tokenizer import load_tokenizer
found = load_tokenizer("hf:some/model")
print(found.name, found.fingerprint)
try:
    load_tokenizer("hf:no/model")
except WorkError as error:
    print(error)
"""
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    name, *error = done.stdout.splitlines()
    from training.text.tokenizer import HuggingFaceTokenizer

    assert name == f"hf:some/model {HuggingFaceTokenizer(hugging_face(), 'x').fingerprint}"
    assert error[0] == "tokenizer hf:no/model cannot be had from the hub"
    assert error[2:] == ["check the name and the network, or give its tokenizer.json instead"]


@pytest.mark.extras
def test_what_datasets_saves_and_loads_is_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets: Any = importlib.import_module("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cached"))
    saved, splits, parquet = (tmp_path / name for name in ("saved", "splits", "tables"))
    records = datasets.Dataset.from_dict({"text": TEXTS, "number": list(range(len(TEXTS)))})
    records.save_to_disk(saved, num_shards=3)
    # What is shuffled is saved in its new order.
    datasets.DatasetDict({"train": records, "test": records.shuffle(seed=1)}).save_to_disk(splits)
    parquet.mkdir()
    records.to_parquet(parquet / "train.parquet")
    assert read(str(saved)) == read(str(splits / "train")) == TEXTS
    assert read(str(splits / "test")) == list(records.shuffle(seed=1)["text"])
    with pytest.raises(InputError, match=r"has the splits test, train; name one"):
        corpus_files(str(splits))
    # The code that loads by hub name takes a folder of data files too.
    monkeypatch.chdir(tmp_path)
    assert read("hf:tables") == read("hf:tables:train") == TEXTS
    with pytest.raises(InputError, match=r"Unknown split \"nothing\""):
        corpus_files("hf:tables:nothing")
    texts = [prepare(DataOptions(source, held_out=0.2), tmp_path)[1].content for source in ("hf:tables", str(saved), str(parquet))]
    assert texts[0] == texts[1] == texts[2]
