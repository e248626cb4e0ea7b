"""SPEC.md: every place and every proof it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "SPEC.md").read_text().splitlines() if line.startswith("| ") and not line.startswith("| What")]


def _definitions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:60] for row in ROWS])
def test_every_place_and_proof_exists(row: str) -> None:
    _, _what, where, proof, standing, _ = (cell.strip() for cell in row.split("|"))
    places, proofs = re.findall(r"`([\w/]+\.py):(\w+)`", where), re.findall(r"`([\w/]+\.py)::(\w+)`", proof)
    assert places, f"no place in: {row}"
    assert proofs, f"no proof in: {row}"
    assert standing
    for file, name in places + proofs:
        assert name in _definitions(ROOT / file), f"{file} defines no {name}"
