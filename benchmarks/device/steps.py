"""Whole training steps: tokens a second, utilisation, and memory against `plan.memory`."""

from typing import Any

from benchmarks.common import median
from benchmarks.device.parts import Found, Item
from plan.memory import Step, step_memory
from plan.traffic import step_traffic
from reference.config import ModelConfig, RouterConfig
from reference.sizes import LADDER

FORMS = (("kernel", "selective"), ("chunked", "selective"), ("plain", "none"))
"""Attention and rematerialisation."""

GB = 1e9


def items(toy: bool) -> list[Item]:
    """In the order of their memory by closed form, so that each one's peak is the process's."""
    if toy:
        found = [_item("7K", 1, "chunked", "selective", 32, 2)]
    else:
        found = [_item(size, experts, *FORMS[0]) for size in ("15M", "130M", "370M") for experts in (1, 8, 64)]
        found += [_item(size, experts, *form) for form in FORMS[1:] for size in ("15M", "370M") for experts in (1, 8)]
    return sorted(found, key=lambda item: item["closed_form_bytes"])


def _item(size: str, experts: int, attention: str, remat: str, context: int = 2048, batch: int = 8) -> Item:
    routed = "dense" if experts == 1 else f"E = {experts}"
    item: Item = {
        "name": f"{size} {routed}, {attention}/{remat}", "size": size, "experts": experts, "attention": attention, "remat": remat,
        "context": context, "batch": batch,
    }  # fmt: skip
    return item | {"closed_form_bytes": step_memory(Step(config_of(item), batch)).peak}


def config_of(item: Item) -> ModelConfig:
    """The model, in bfloat16; routed ones by S-BASE at the paper's recipe's capacity."""
    router = None if item["experts"] == 1 else RouterConfig(num_experts=item["experts"])
    vocabulary = 32_000 if item["context"] > 64 else 257
    forms: Any = {"attention": item["attention"], "remat": item["remat"]}
    return ModelConfig(LADDER[item["size"]], router, vocabulary=vocabulary, context=item["context"], dtype="bfloat16", **forms)


def measure(item: Item, turns: int = 5, steps: int = 4) -> Found:
    """Of a step: seconds to compile and to take, and bytes."""
    from benchmarks.device.machine import memory, peak_flops
    from benchmarks.stepper import Stepper

    config, batch, closed = config_of(item), item["batch"], item["closed_form_bytes"]
    limit = memory("bytes_limit")
    if limit is not None and closed > limit:
        return {"skipped": f"a step needs {closed / GB:.1f} GB of {limit / GB:.1f}"}
    before = memory("peak_bytes_in_use")
    stepper = Stepper(config, batch)
    seconds = median([stepper.together(steps) / steps for _ in range(turns)])
    after = memory("peak_bytes_in_use")
    # The peak of all there was in this process: this step's only if it grew.
    used = after if after is not None and after != before else None
    flops, peak = step_traffic(Step(config, batch)).model_flops, peak_flops()
    return {
        "compile_seconds": stepper.compile_seconds, "step_seconds": seconds, "tokens_per_second": batch * config.context / seconds,
        "model_flops_per_second": flops / seconds, "utilisation": peak and flops / seconds / peak,
        "reported_bytes": stepper.reported_bytes, "peak_bytes": used,
    }  # fmt: skip


HEADER = ("", "compile s", "step ms", "tokens/s", "TFLOP/s", "utilisation", "plan GB", "XLA GB", "peak GB", "plan / peak")


def row(item: Item, found: Found) -> list[str]:
    """Speed and memory; a dash where the device does not tell."""
    peak, utilisation, closed = found["peak_bytes"], found["utilisation"], item["closed_form_bytes"]
    return [
        item["name"],
        f"{found['compile_seconds']:.1f}",
        f"{1e3 * found['step_seconds']:.1f}",
        f"{found['tokens_per_second']:,.0f}",
        f"{found['model_flops_per_second'] / 1e12:.3g}",
        "-" if utilisation is None else f"{utilisation:.1%}",
        *(f"{size / GB:.3g}" for size in (closed, found["reported_bytes"])),
        *(("-", "-") if peak is None else (f"{peak / GB:.3g}", f"{closed / peak:.2f}")),
    ]
