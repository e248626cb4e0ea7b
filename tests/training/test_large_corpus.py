"""A corpus of a gigabyte goes through in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIGABYTE = 1 << 30

WORKER = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from training.text.batches import Sequences, training_batches
from training.config import DataOptions
from training.text.prepare import prepare

def anonymous():
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

corpus, cache = sys.argv[1:]
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, time.monotonic()
_, text = prepare(DataOptions(corpus, held_out=0.2), Path(cache))
peak, took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, time.monotonic() - begun
((_, stream),) = text.streams("train")
at_rest = anonymous()
batches = training_batches([Sequences(stream, 2048)], 32, seed=0)
for _ in range(300):
    next(batches)
tokens = text.tokens("train") + text.tokens("held_out")
print(json.dumps({"tokens": tokens, "writing": peak - before, "reading": anonymous() - at_rest, "seconds": took}))
"""


@pytest.mark.slow
def test_a_gigabyte_of_text_streams_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    line = "the cat sat on a mat and saw what the dog had done to it while all were out "
    piece = "".join(f"{i} {line}\n" for i in range(10_000))
    written = files = 0
    while written < GIGABYTE:
        with (tmp_path / "corpus" / f"{files:03d}.txt").open("w") as file:
            # Documents that begin alike would all go to the same split.
            written += file.write(f"{files}\n")
            for _ in range(20 if files else 400):
                written += file.write(piece)
        files += 1
    command = [sys.executable, "-c", WORKER, str(tmp_path / "corpus"), str(tmp_path / "cache")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout)
    print(found)
    assert found["tokens"] == written + files
    # A piece of text is 1 MB, 4 MB as token ids in 32 bits; a few copies, and what the libraries take when they are first used.
    assert found["writing"] < 100 << 20
    # What is read is mapped, not held: a few batches of 256 kB, and the order of the sequences.
    assert found["reading"] < 100 << 20
