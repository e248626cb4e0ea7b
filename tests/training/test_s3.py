"""Texts and token shards at s3://, of moto's server on the loopback, by s3fs."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from common.errors import InputError
from tests.training.tiny_runs import Quiet, tiny, write_corpus
from training.run import train
from training.text.prepare import prepare
from training.text.read import documents, read_corpus
from training.text.split import Fractions
from training.text.tokenizer import ByteTokenizer
from training.text.write import write_shards


@pytest.mark.extras
def test_texts_and_shards_at_s3_are_read_and_trained_on_and_runs_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto: Any = importlib.import_module("moto.server")
    corpus = write_corpus(tmp_path / "corpus")
    write_shards(read_corpus(str(corpus)), ByteTokenizer(), tmp_path / "shards", Fractions(0.2))
    local = tiny(tmp_path / "shards", size="7K", router="dense", steps=2, checkpoint_every=2, test=0.0, also="")
    local = dataclasses.replace(local, data=dataclasses.replace(local.data, held_out=0.05))
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        }
        for name, value in (environment | dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")).items():
            monkeypatch.setenv(name, value)
        files: Any = fsspec.filesystem("s3")
        files.mkdir("bucket")
        for folder in ("corpus", "shards"):
            files.put(str(tmp_path / folder), f"bucket/{folder}", recursive=True)
        here, there = (["".join(document.pieces) for document in documents(each)] for each in (str(corpus), "s3://bucket/corpus"))
        assert here == there
        assert len(list(documents("s3://bucket/corpus/0*.txt"))) == 10
        with pytest.raises(InputError, match=r"corpus s3://bucket/none does not exist"):
            list(documents("s3://bucket/none"))
        data = dataclasses.replace(local.data, corpus="s3://bucket/shards")
        assert prepare(data, tmp_path)[1].content == json.loads((tmp_path / "shards" / "tokens.json").read_text())["content"]
        losses = [
            train(dataclasses.replace(local, data=each), tmp_path / name, Quiet(), tmp_path).held_out
            for name, each in (("local", local.data), ("s3", data))
        ]
        assert losses[0] == losses[1]
        with pytest.raises(
            InputError, match=r"^s3://bucket/run: no run can be there, for Orbax writes checkpoints to folders and gs:// only;\n"
        ):
            train(local, Path("s3://bucket/run"), Quiet(), tmp_path)
        assert not files.exists("bucket/run")
    finally:
        server.stop()
