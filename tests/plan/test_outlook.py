"""Times, bytes and memory by closed form: against computations by hand, published figures of whole pods, and compiled steps."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cli import main
from plan.chips import CHIPS, GIB, Side, Topology
from plan.compiled import Memory, Result, from_result
from plan.hlo import Collectives
from plan.memory import Step, evaluation_memory, step_memory
from plan.outlook import by_closed_form, by_compiler, rows_of
from plan.request import Request
from plan.times import StepTime, collective_seconds, run_totals, step_time, utilisation
from plan.traffic import evaluation_collectives, step_traffic, total
from reference.config import REMATS, ModelConfig, RouterConfig, Size
from reference.count import expert_slots, held_parameters, training_flops
from reference.errors import ConfigError
from reference.routers import Switch

PAGE = Path(__file__).parents[2] / "docs" / "plan.json"
PROGRAMS = [from_result(each) for each in json.loads(PAGE.read_text())["programs"]]
COMPILED = [result for result in PROGRAMS if result.request.program != "layer"]


def name(result: Result) -> str:
    """Of a request among those of the page."""
    request = result.request
    return f"{request.program} {request.topology} {request.model} {request.batch} in {request.microbatches}"


@pytest.mark.parametrize(("pod", "bisection", "each_way"), [("v5e:16x16", 1.6e12, 200e9), ("v6e:16x16", 3.2e12, 400e9)])
def test_a_pods_links_add_up_to_its_published_bisection_and_ici_bandwidth(pod: str, bisection: float, each_way: float) -> None:
    # The pages' own figures for 256 chips (cloud.google.com/tpu/docs, "v5e", "v6e"): all-reduce 51.2 and 102.4 TB/s are each chip's
    # four links, one way.
    topology = Topology(pod)
    assert 16 * 2 * topology.chip.link_bandwidth == bisection
    assert sum(side.links for side in topology.sides) * topology.chip.link_bandwidth == each_way


def test_rows_are_rings_where_a_slice_wraps_around() -> None:
    assert Topology("v5e:8x16").sides == (Side(8, False), Side(16, True))
    assert Topology("v5p:4x4x8").sides == (Side(4, True), Side(4, True), Side(8, True))
    # Less than a cube of 4x4x4 has no ring.
    assert Topology("v5p:2x2x4").sides == (Side(2, False), Side(2, False), Side(4, False))


def test_a_mesh_is_laid_on_a_slices_sides_from_the_last_to_the_first() -> None:
    assert Topology("v5p:4x4x8").split((4, 8, 4)) == ((Side(4, True),), (Side(2, False), Side(4, True)), (Side(4, False),))
    assert Topology("v5e:16x16").split((4, 64, 1)) == ((Side(4, False),), (Side(16, True), Side(4, False)), ())
    request = Request("step", "370M", topology="v5e:16x16")
    assert request.axes == (4, 64, 1)
    assert rows_of(request, ("data", "expert")) == (Side(16, True), Side(16, True))
    assert rows_of(request, ("data",)) == (Side(4, False),)


LINE, RING, SQUARE = (Side(4, False),), (Side(4, True),), (Side(4, True), Side(4, True))


@pytest.mark.parametrize(
    ("kind", "rows", "seconds"),
    [
        # 8 bytes over links of 1 byte a second: 3/4 of them come by one link, or two, or four.
        ("all-gather", LINE, 6.0),
        ("all-gather", RING, 3.0),
        ("reduce-scatter", RING, 3.0),
        ("all-reduce", RING, 6.0),
        ("all-gather", SQUARE, 8 * 15 / 16 / 4),
        # Two chips of a row each send half of their 8 bytes across its middle, over one link each way; over two in a ring.
        ("all-to-all", LINE, 8.0),
        ("all-to-all", RING, 4.0),
        # Eight chips send 4 bytes each across, over four rows' two links: 32 / 8. As in a single ring.
        ("all-to-all", SQUARE, 4.0),
        # Two and three of five: 2 * 8 * 3/5 over one link.
        ("all-to-all", (Side(5, False),), 9.6),
        # Two chips: each half to the other.
        ("all-to-all", (Side(2, False),), 4.0),
        ("collective-permute", LINE, 8.0),
        ("all-gather", (), 0.0),
    ],
)  # fmt: skip
def test_a_collective_takes_what_a_hand_computes(kind: str, rows: tuple[Side, ...], seconds: float) -> None:
    assert collective_seconds(kind, 8, rows, 1.0) == pytest.approx(seconds)


def test_a_step_is_bounded_by_what_takes_longest() -> None:
    chip = CHIPS["v5e"]
    time = step_time(chip, flops=197e12, hbm=819 * 10**9 // 2, collectives={"all-to-all": 0.2, "all-gather": 0.1})
    assert (time.products, time.memory, time.links) == pytest.approx((1.0, 0.5, 0.3))
    assert time.overlapped == pytest.approx(1.0)
    assert time.serial == pytest.approx(1.8)
    assert time.bottleneck == "matrix products"
    assert replace(time, memory=2.0).bottleneck == "HBM"
    assert replace(time, collectives={"all-to-all": 1.0, "all-gather": 2.0}).bottleneck == "links, most of all all-gather"
    assert utilisation(197e12 / 2, 2.0, chip) == pytest.approx(0.25)


def test_a_run_is_its_steps() -> None:
    time = StepTime(products=3.6, memory=1.8, collectives={})
    run = run_totals(time, steps=1000, chips=16, model_flops=2.0, flops=3.0, link_bytes=5, tokens=7)
    assert (run.hours, run.serial_hours, run.chip_hours) == pytest.approx((1.0, 1.5, 16.0))
    assert (run.flops, run.done_flops, run.link_bytes, run.tokens) == (32e3, 48e3, 80e3, 7e3)


def test_products_of_a_step_are_three_forward_passes_and_those_that_rematerialisation_repeats() -> None:
    config = Request("step", "370M", attention="plain", remat="none").config()
    without, selective, full = (step_traffic(Step(replace(config, remat=remat), 256, 1, (1, 16, 1))) for remat in REMATS)
    # 16 sequences on a device, which is what groups and positions are shared by; logits are computed in chunks, and so a fourth time.
    logits = 2 * 32_000 * 1536 * 2048 * 16
    assert without.flops == training_flops(config, 16) + logits
    forward = training_flops(config, 16) / 3 - logits
    # All but the products out of the dense feed-forwards: half the blocks have one, of 4 D^2 a token each.
    assert full.flops - without.flops == forward - 6 * 2 * 4 * 1536**2 * 2048 * 16
    # A twelfth of a step, as half the feed-forwards' products and two of three of the scores' are done again, and none of attention's.
    assert without.flops < selective.flops < without.flops + 0.5 * forward
    # The capacity factor's empty slots are no work that the model asks for.
    assert without.model_flops < without.flops


@pytest.mark.parametrize("result", COMPILED, ids=name)
def test_closed_forms_are_what_the_tpu_compiler_found(result: Result) -> None:
    step, is_step = result.request.step, result.request.program == "step"
    memory = step_memory(step) if is_step else evaluation_memory(step)
    # Besides weights, moments and tokens, arguments are a few counters, and arrays padded to the chip's tiles.
    assert memory.state == pytest.approx(result.memory.arguments, rel=1e-3)
    # Our limit for a peak.
    assert memory.peak == pytest.approx(result.memory.total, rel=0.15)
    if result.collectives is None:
        return
    moved, closed = result.collectives, step_traffic(step).collectives if is_step else evaluation_collectives(step)
    assert moved["all-to-all"].bytes == total(closed, "all-to-all")
    # TPUs' compiler writes a reduce-scatter as an all-reduce, and some gathers of integers too. Losses and metrics, numbers each or one
    # for each expert, are left out, and norms and routers too small to be spread are not gathered.
    kinds = ("all-gather", "reduce-scatter", "all-reduce")
    # It sums the embedding's gradient over microbatches before it sums it over chips, where our program does both in each.
    once = 4 * (result.request.microbatches - 1) * step.parameters.embedding if is_step else 0
    found, left_out = sum(moved[kind].bytes for kind in kinds), 4 * step.config.routed_layers * (result.request.experts + 8)
    assert found == pytest.approx(sum(total(closed, kind) for kind in kinds) - once, rel=1e-3, abs=left_out)
    # On 64 chips it writes gathers as all-reduces, some or all, which the sum above holds; on fewer it keeps the large ones.
    if is_step and math.prod(step.axes) < 64:
        assert moved["all-gather"].bytes == pytest.approx(total(closed, "all-gather"), rel=1e-3)


@pytest.mark.parametrize("result", [each for each in COMPILED if each.request.program == "evaluation"], ids=name)
def test_on_tpus_an_evaluation_moves_tokens_in_its_rounds_and_gathers_no_expert(result: Result) -> None:
    step, moved = result.request.step, result.collectives
    assert moved is not None
    # Two in each layer and round, of which one is counted, in the loop over rounds in the loop over layers: none is elsewhere.
    assert moved["all-to-all"].runs == 2 * step.config.routed_layers
    assert moved["all-to-all"].depth == 2
    # The tokens' choices at most: one integer for each token and layer. With FSDP, the blocks' weights in bfloat16 as well, but no expert.
    weights = 2 * (step.parameters.attention + step.parameters.feed_forward) if step.fsdp else 0
    assert moved["all-gather"].bytes <= 4 * step.config.routed_layers * step.batch * step.config.context + weights
    assert evaluation_memory(step).temporary == pytest.approx(result.memory.temporaries, rel=0.15)


@pytest.mark.parametrize("experts", [64, 512])
def test_the_largest_models_can_be_evaluated_where_they_can_be_trained(experts: int) -> None:
    asked = ("evaluation", "1.3B", experts)
    result = next(each for each in COMPILED if (each.request.program, each.request.size, each.request.experts) == asked)
    training = step_memory(replace(result.request, program="step").step)
    assert training.peak < Topology(result.request.topology).chip.hbm
    # Both with the training state in memory, so that an evaluation fits wherever a step does.
    assert result.fits
    assert result.memory.total < training.peak


def test_an_outlook_by_the_compiler_has_its_bytes_and_scales_its_flops() -> None:
    request = Request("step", "1.3B")
    memory = Memory(arguments=20 * GIB, temporaries=40 * GIB, outputs=20 * GIB, aliased=20 * GIB, code=0)
    moved = {"all-to-all": Collectives(4, 48, 48 * 160 * 2**20), "all-gather": Collectives(0, 0, 0)}
    result = Result(request, True, memory, flops=0.9, closed_form=1.0, collectives=moved)
    closed, found = by_closed_form(request, 10), by_compiler(result, 10)
    assert found is not None
    assert found.flops == pytest.approx(0.9 * closed.flops)
    assert found.collectives == {"all-to-all": closed.collectives["all-to-all"]}
    assert found.memory["peak"] == memory.total == 60 * GIB
    assert found.time.bottleneck == closed.time.bottleneck == "matrix products"
    # 48 all-to-alls of 160 MiB on 2x2x4 without rings: the row of four is the narrowest, V * 4 / 4 over one link.
    assert closed.time.collectives["all-to-all"] == pytest.approx(48 * 160 * 2**20 / 100e9)
    # Nothing is known of a step that the compiler refused, or of another program.
    assert by_compiler(replace(result, collectives=None), 10) is None
    assert by_compiler(replace(result, request=replace(request, program="evaluation")), 10) is None


def test_memory_of_a_small_step_is_what_a_hand_computes() -> None:
    # D = A = 8, two heads, T = 4 tokens of 2 sequences, one block, 16 words: all in float32.
    config = ModelConfig(Size(8, 1, 2, 4), None, vocabulary=16, context=4)
    memory = step_memory(Step(config, 2))
    weights = 5 * 64 + 8 * 64 + 4 * 8 + 16 * 8 + 2 * 8
    assert memory.parameters == memory.gradients == 4 * weights
    assert memory.optimizer == 2 * 4 * weights
    assert memory.inputs == 4 * 2 * 5
    # Per token 4 + 2 + 4 times D, 5 times A; four matrices; 2 * 2 * 4 * 4 scores.
    assert memory.kept == 4 * (8 * 15 * 8 + 4 * 64 + 64)
    assert memory.summed == memory.cast == 0
    assert memory.logits == 2 * 4 * 8 * 16
    assert memory.working == memory.kept + 2 * 4 * 64
    assert memory.peak == memory.state + memory.kept + memory.gradients + memory.working
    remat = step_memory(Step(replace(config, remat="full"), 2))
    assert remat.kept == 4 * 8 * 8
    assert step_memory(Step(replace(config, dtype="bfloat16"), 2)).cast == 2 * weights
    # 13 ids are 16 rows, of which 3 are masked: the logits once more.
    padded = step_memory(Step(replace(config, vocabulary=13, vocabulary_multiple=8), 2))
    assert padded.parameters == memory.parameters
    assert padded.logits == 3 * 4 * 8 * 16


def test_memory_of_a_mesh_is_each_devices_share() -> None:
    config = ModelConfig(Size(16, 2, 4, 4), RouterConfig(num_experts=8), 0.5, vocabulary=32, context=8)
    one, mesh = step_memory(Step(config, 16)), step_memory(Step(config, 16, axes=(2, 4, 2)))
    assert one.summed == 0
    # Two moments of the experts are spread over all 16 devices, as those of all else that model splits.
    assert mesh.optimizer < one.optimizer / 8 + 2 * 4 * (2 * 4 * 16 + 16 * 8 + 32)
    assert mesh.kept < one.kept / 8
    # Of microbatches, the sum so far and the next.
    assert step_memory(Step(config, 16, 2)).summed == 2 * one.gradients


def test_a_plan_by_closed_forms_needs_no_compiler_and_names_the_first_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--size", "1.3B", "--router", "s-base", "--experts", "64", "--topology", "v5p:2x2x4", "--closed-form"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "first bottleneck  matrix products" in printed
    assert "250,000 steps" in printed
    assert main([*asked, "--steps", "1000", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["run"]["hours"] == pytest.approx(1000 * record["seconds"]["overlapped"] / 3600)
    assert record["run"]["tokens"] == 1000 * 256 * 2048
    assert record["seconds"]["products"] == pytest.approx(record["flops"] / 459e12)
    assert 0 < record["model_flops_utilisation"]["serial"] < record["model_flops_utilisation"]["overlapped"] < 1
    assert record["memory"]["peak"] < 95 * GIB
    assert record["fits"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "layer"], "closed forms are of a training step"),
        (["--steps", "0"], "a run has at least 1 step"),
        (["--topology", "v5p:4x4"], "v5p chips are linked in 3 dimensions; write one such as v5p:4x4x4"),
        (["--out", "page.md"], "--out is for compiled programs"),
        (["--routing-frequency", "2/3"], "not 1/integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_closed_forms_cannot_answer_is_one_line_and_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--closed-form", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_a_batch_that_chips_do_not_divide_gets_the_options_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--closed-form", "--topology", "v5p:8x8x8"]
    assert main(asked) == 2
    found = re.search(r"use (--batch \d+), or (--mesh \S+)", capsys.readouterr().err)
    assert found is not None
    for option in found.groups():
        assert main([*asked, *option.split()]) == 0


def test_a_plan_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--closed-form", "--topology", "v5e:16x16"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_counts_and_plans_of_a_configuration_are_those_of_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "5M", "--experts", "16", "--k", "2", "--routing-frequency", "1/3", "--context", "64"]
    assert (
        main(["train", *options, "--router", "switch", "--batch", "16", "--capacity-factor", "2", "--steps", "30", "--print-config"]) == 0
    )
    (tmp_path / "run.toml").write_text(capsys.readouterr().out)
    options += ["--router", "switch", "--batch", "16", "--vocabulary", "257"]
    by_option = {
        "count": [],
        "plan": [
            "--closed-form",
            "--steps",
            "30",
            "--dtype",
            "float32",
            "--capacity-factor",
            "2",
            "--attention",
            "plain",
            "--remat",
            "none",
        ],
    }
    for command, own in by_option.items():
        records: list[object] = []
        for asked in (["--config", str(tmp_path / "run.toml"), *own[:1]], [*options, *own]):
            assert main([command, *asked, "--json"]) == 0
            records.append(json.loads(capsys.readouterr().out))
        assert records[0] == records[1]


def test_a_routed_layer_has_no_outlook() -> None:
    with pytest.raises(ConfigError, match="of a training step"):
        by_closed_form(Request("layer"), 1)


def test_shared_experts_have_the_layout_of_feed_forwards_and_fine_ones_their_width() -> None:
    router = RouterConfig(Switch(), num_experts=8, k=2, granularity=2, shared_experts=3)
    config = ModelConfig(Size(16, 2, 4, 4), router, 0.5, vocabulary=32, context=8)
    local = Step(config, 16, axes=(2, 4, 2)).parameters
    # One block is routed: experts are 16 x 32 twice, 2 of 8 on a device, half of each; shared ones are whole but for `model`.
    assert local.experts == 2 * 2 * 16 * 32 // 2
    assert local.feed_forward == (2 * 16 * 64 + 3 * 2 * 16 * 32) // 2
    assert local.everything * 16 > held_parameters(config).everything
    # Without a mesh all weights are held, whatever they are counted as.
    assert Step(config, 16).parameters.everything == held_parameters(config).everything


def test_an_evaluations_buffers_take_twice_the_mean_load() -> None:
    step = Request("evaluation", "370M", k=2).step
    # 16 sequences of 2048 tokens on a device, 2 choices each, over 64 experts.
    assert step.evaluation_slots == 2 * 16 * 2048 * 2
    # Without an `expert` axis as many blocks of the mean load as any routing can need.
    assert replace(step, axes=(16, 1, 1)).evaluation_slots == expert_slots(step.config, 16, inference=True)
    memory = evaluation_memory(step)
    assert memory.state == step_memory(step).state
    assert memory.gradients == memory.kept == 0
