"""The same architecture in PyTorch on the same device, eager and compiled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import median
from benchmarks.device.parts import Found, Item
from benchmarks.device.steps import config_of
from benchmarks.torch_peer import peer


def items(toy: bool, python: Path | None, ours: dict[tuple[str, int], float]) -> list[Item]:
    """Forms of PyTorch; `ours`: our most tokens a second, by size and experts. None without a Python that has PyTorch."""
    if python is None:
        return []
    toys = (("7K", 1, "loop"), ("7K", 8, "grouped"), ("7K", 8, "loop"))
    models = toys if toy else (("15M", 1, "loop"), ("15M", 8, "grouped"), ("15M", 8, "loop"), ("370M", 1, "loop"))
    shape: Item = {"context": 32, "batch": 2} if toy else {"context": 2048, "batch": 8}
    found: list[Item] = []
    for size, experts, form in models:
        # A loop over experts breaks the compiled graph at each of them, which takes minutes to compile.
        for compiled in (False,) if toy or (experts > 1 and form == "loop") else (False, True):
            routed = "dense" if experts == 1 else f"E = {experts}, {form}"
            name = f"{size} {routed}, {'compiled' if compiled else 'eager'}"
            model = {"size": size, "experts": experts, "form": form, "compiled": compiled, "python": str(python)}
            found.append({"name": name, **model, **shape, "toy": toy, "ours": ours.get((size, experts))})
    return found


def measure(item: Item, turns: int = 5, steps: int = 4) -> Found:
    """Seconds of a step."""
    plain: dict[str, Any] = {"attention": "plain", "remat": "none"}
    config = replace(config_of(item | plain), dtype="float32") if item["toy"] else config_of(item | plain)
    how: dict[str, Any] = {"compiled": item["compiled"], "form": item["form"], "device": "cpu" if item["toy"] else "cuda"}
    if item["toy"]:
        how["threads"] = 1  # on a busy CPU, threads that wait for each other take seconds for a step of a millisecond
    with peer(Path(item["python"]), config, item["batch"], **how) as theirs:
        seconds = median([one for _ in range(turns) for one in theirs.seconds(steps)])
        return {"version": theirs.version, "step_seconds": seconds, "tokens_per_second": item["batch"] * item["context"] / seconds}


HEADER = ("", "PyTorch", "step ms", "tokens/s", "ours at most", "ours / PyTorch's")


def row(item: Item, found: Found) -> list[str]:
    """Its speed, and ours over it."""
    theirs, ours = found["tokens_per_second"], item["ours"]
    cells = [found["version"], f"{1e3 * found['step_seconds']:.1f}", f"{theirs:,.0f}"]
    return [item["name"], *cells, *(("-", "-") if ours is None else (f"{ours:,.0f}", f"{ours / theirs:.2f}"))]
