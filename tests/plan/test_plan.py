"""Plans for TPUs: what is read from a compiled program, what is refused, and, with the TPU compiler, what programs cost."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli import main
from plan.chips import GIB, Topology
from plan.compiled import Memory, Result, from_result, measure, out_of_memory
from plan.hlo import KINDS, Collectives, collectives
from plan.memory import evaluation_memory
from plan.request import Request, parse_mesh
from plan.table import ALL, BEGIN, END, evaluation_of, measure_all, record, write
from plan.traffic import counted_once, evaluation_collectives, total
from reference.count import matmul_flops
from reference.errors import ConfigError
from reference.routers import ROUTERS

# As TPUs' compiler writes programs, shortened: a collective in a loop of 6 iterations and one in a loop inside of it, one written as
# start and done in fusions, one in a tuple, and one in a computation that nothing calls.
PROGRAM = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%start (p: bf16[4,8]) -> (bf16[4,8], bf16[64,8]) {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[64,8]{1,0} all-gather(%p), dimensions={0}
  ROOT %both = (bf16[4,8]{1,0}, bf16[64,8]{1,0}) custom-call(%all-gather.1)
}

%async_collective_fusion.2 (q: bf16[4,8]) -> bf16[64,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[64,8]{1,0} all-gather(%q), dimensions={0}
}

%unused (u: f32[8]) -> f32[8] {
  %u = f32[8]{0} parameter(0)
  ROOT %all-reduce.9 = f32[8]{0} all-reduce(%u), to_apply=%add
}

%round (r: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %r = (s32[], bf16[16,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%r), index=0
  %m = bf16[16,8]{1,0} get-tuple-element(%r), index=1
  %all-to-all.6 = bf16[16,8]{1,0} all-to-all(%m), dimensions={0}
  ROOT %after = (s32[], bf16[16,8]{1,0}) tuple(%n, %all-to-all.6)
}

%until (u: (s32[], bf16[16,8])) -> pred[] {
  %u = (s32[], bf16[16,8]{1,0}) parameter(0)
  %most = s32[] constant(2147483647)
  %first = s32[] get-tuple-element(%u), index=0
  %fullest = s32[] minimum(%first, %most)
  ROOT %more = pred[] compare(%first, %fullest), direction=LT
}

%body (b: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %b = (s32[], bf16[16,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %v = bf16[16,8]{1,0} get-tuple-element(%b), index=1
  %all-to-all.3 = bf16[16,8]{1,0} all-to-all(%v), dimensions={0}
  %rounds = (s32[], bf16[16,8]{1,0}) while(%b), condition=%until, body=%round
  ROOT %next = (s32[], bf16[16,8]{1,0}) tuple(%i, %all-to-all.3)
}

%condition (c: (s32[], bf16[16,8])) -> pred[] {
  %turns = s32[]{:T(128)} constant(6)
  %c = (s32[], bf16[16,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%j, %turns), direction=LT
}

ENTRY %main (a: bf16[4,8], w: f32[32]) -> f32[32] {
  %a = bf16[4,8]{1,0} parameter(0)
  %w = f32[32]{0} parameter(1)
  %async-collective-start.1 = (bf16[4,8]{1,0}, bf16[64,8]{1,0}) fusion(%a), kind=kCustom, calls=%start
  %fusion.2 = bf16[64,8]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.2
  %loop = (s32[], bf16[16,8]{1,0}) while(%tuple), condition=%condition, body=%body
  %all-reduce.4 = (f32[32]{0}, f32[32]{0}) all-reduce(%w, %w), to_apply=%add
  ROOT %reduce-scatter.5 = f32[2]{0} reduce-scatter(%w), dimensions={0}, to_apply=%add
}
"""


def test_collectives_are_counted_as_often_as_they_run() -> None:
    assert collectives(PROGRAM) == {
        # In the loop of 6, and in the loop inside of it, whose iterations depend on data.
        "all-to-all": Collectives(instructions=2, runs=12, bytes=12 * 16 * 8 * 2, depth=1),
        "all-gather": Collectives(instructions=1, runs=1, bytes=64 * 8 * 2),
        "reduce-scatter": Collectives(instructions=1, runs=1, bytes=32 * 4),
        "all-reduce": Collectives(instructions=1, runs=1, bytes=2 * 32 * 4),
        "collective-permute": Collectives(instructions=0, runs=0, bytes=0),
    }


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (21.75G) exceeds "
            "available HBM (15.75G).",
            # Arguments come on top.
            24.75,
        ),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm.", 20.25),
    ],
)
def test_a_compiler_out_of_memory_says_how_much_the_program_needs(message: str, needed: float) -> None:
    memory = out_of_memory(message, arguments=3 * GIB)
    assert memory is not None
    assert memory.total == needed * GIB


def test_another_error_of_the_compiler_is_not_taken_for_a_lack_of_memory() -> None:
    assert out_of_memory("INTERNAL: something else", arguments=0) is None


def test_donated_arguments_are_not_counted_twice() -> None:
    assert Memory(arguments=10, temporaries=5, outputs=11, aliased=10, code=1).total == 17


def test_the_closed_form_counts_each_loop_once_as_xla_does() -> None:
    request = Request("step", "370M", attention="plain", remat="none")
    # 12 blocks in 6 groups; 16 of the 256 sequences on a device; 2^26 logits are 131 positions of them, and those are done again.
    forward = matmul_flops(request.config(), 16, inference=False)
    assert counted_once("step", request.step) == pytest.approx(3 * (forward.total - forward.logits) / 6 + 4 * forward.logits / 16)
    # Again with full rematerialisation, but for the products out of the dense feed-forwards; and of 8 microbatches of 2 sequences a
    # device, one, in two chunks of 1048 positions.
    part = matmul_flops(request.config(), 2, inference=False)
    step = replace(request, remat="full", microbatches=8).step
    assert counted_once("step", step) == pytest.approx((4 * (part.total - part.logits) - part.feed_forward / 2) / 6 + 4 * part.logits / 2)


def test_the_closed_form_of_an_evaluation_has_one_round_of_twice_the_mean_load() -> None:
    request = Request("evaluation", "370M", attention="plain")
    training, found = matmul_flops(request.config(), 16, inference=False), counted_once("evaluation", request.step)
    # In training an expert takes 1.25 of the mean load.
    forward = training.total - training.logits + training.experts * (2 / 1.25 - 1)
    assert found == pytest.approx(forward / 6 + training.logits / 16)
    # Without an `expert` axis there are no rounds, and no figure to compare with XLA's.
    assert counted_once("evaluation", replace(request, mesh=(16, 1, 1)).step) is None


def test_an_evaluation_has_the_sequences_of_a_microbatch() -> None:
    assert evaluation_of(Request("step", microbatches=16)) == Request("evaluation", batch=16)


def test_a_topology_knows_its_chips() -> None:
    assert [(Topology(name).devices, Topology(name).accelerator_type) for name in ("v5e:4x4", "v5p:2x2x4", "v5e:16x16")] == [
        (16, "v5litepod-16"),
        (16, "v5p-32"),
        (256, "v5litepod-256"),
    ]


def test_left_to_itself_a_mesh_spreads_experts_as_far_as_they_divide() -> None:
    assert Request("step", topology="v5e:16x16").axes == (4, 64, 1)
    assert Request("step", experts=24).axes == (2, 8, 1)
    assert Request("step", router="dense").axes == (16, 1, 1)
    assert parse_mesh("model=2,data=8") == (8, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "3B"], "no size is called '3B'"),
        (["--router", "base"], "no router is called 'base'; there are dense, s-base"),
        (["--k", "65"], "k is 65"),
        (["--routing-frequency", "0.3"], "use 1, 1/2, 1/3"),
        (["--topology", "v9:4x4"], "no topology is called 'v9:4x4'"),
        (["--topology", "v5e:4x0"], "no topology is called 'v5e:4x0'"),
        (["--mesh", "data=3"], "data x expert x model is 3 x 1 x 1, but v5p:2x2x4 has 16 chips"),
        (["--mesh", "rows=4"], "--mesh rows=4: takes numbers of devices"),
        (["--mesh", "expert=-16"], "--mesh expert=-16: takes numbers of devices"),
        (["--batch", "100"], "100 sequences of a batch are not divisible by the 16 devices of data x expert"),
        (["--microbatches", "3"], "a batch of 256 is not divisible into 3 microbatches"),
        (["--batch", "0"], "batch is 0"),
        (["--router", "dense", "--mesh", "model=16", "--size", "55M"], "num_heads = 12 is not divisible by the model axis (16)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_plan_is_one_line_and_code_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_without_the_compiler_one_line_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan"]) == 1
    assert capsys.readouterr().err == (
        "error: plan needs the TPU compiler, libtpu, which is not installed: uv run --group tpu cli.py plan ...\n"
    )


def test_a_dense_model_has_no_layer_to_plan() -> None:
    with pytest.raises(ConfigError, match="no routed layer"):
        Request("layer", router="dense")


RESULT = Result(Request("step", "370M"), True, Memory(GIB, 2 * GIB, GIB, GIB, 0), 1.0, 2.0, {"all-to-all": Collectives(4, 8, GIB)}, 3.0)


def test_a_result_is_its_json() -> None:
    assert from_result(json.loads(json.dumps(RESULT.record()))) == RESULT
    assert from_result(json.loads(json.dumps(replace(RESULT, collectives=None).record()))).collectives is None


def test_the_committed_page_holds_the_programs_of_the_list_and_is_what_its_json_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "plan.md"
    results = [from_result(result) for result in json.loads(page.with_suffix(".json").read_text())["programs"]]
    assert [result.request for result in results] == list(ALL)
    written = page.read_text()
    assert written.count(BEGIN) == written.count(END) == 1
    for result in results:
        assert f"{result.memory.total / GIB:.2f} of" in written


@pytest.mark.parametrize("missing", [True, False])
def test_a_page_keeps_its_prose_and_its_results(missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plan.table.metadata.version", lambda name: "0")
    complete = replace(RESULT, collectives=dict.fromkeys(KINDS, Collectives(0, 0, 0)))
    page = tmp_path / "plan.md"
    if not missing:
        page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    write([complete], page)
    # Nothing is compiled again, so no compiler is needed.
    assert measure_all([complete.request], page, lambda done, total, what: None) == [complete]
    written = page.read_text()
    assert (
        "| v5p:2x2x4 | 1 x 16 x 1 | 370M s-base E=64 | chunked attention, selective rematerialisation | 256 | yes: 3.00 of 95.00 GiB |"
        in written
    )
    assert "old" not in written
    assert missing or (written.startswith("# Title\n") and written.endswith("\nMore.\n"))
    assert json.loads(page.with_suffix(".json").read_text()) == record([complete])


@pytest.mark.tpu
@pytest.mark.parametrize("router", ROUTERS)
def test_on_tpu_a_routed_layer_moves_its_tokens_in_four_all_to_alls_and_does_the_work_of_its_experts(router: str) -> None:
    found = measure(Request("layer", "370M", router, experts=16, topology="v5e:4x4", batch=16))
    assert found.collectives is not None
    # There and back, in both directions; experts' weights and tokens are gathered nowhere.
    assert found.collectives["all-to-all"].runs == 4
    assert found.collectives["all-gather"].runs == 0
    assert found.ratio is not None
    # Sorting, gates and GELU come on top of the products; the loss's gradient does not reach every product of RL-R's router.
    assert 0.99 < found.ratio < 1.05


@pytest.mark.tpu
def test_on_tpu_an_evaluation_moves_tokens_in_rounds_and_gathers_no_experts() -> None:
    request = Request("evaluation", "370M")
    found = measure(request)
    assert found.collectives is not None
    # Two in each of 6 routed layers, in the loop over rounds in the loop over layers; at most the tokens' choices are gathered.
    assert found.collectives["all-to-all"].runs == 2 * 6
    assert found.collectives["all-to-all"].depth == 2
    assert found.collectives["all-gather"].bytes <= total(evaluation_collectives(request.step), "all-gather")
    # Our limit for a peak, as for a step.
    assert evaluation_memory(request.step).peak == pytest.approx(found.memory.total, rel=0.15)
    assert found.ratio == pytest.approx(1, rel=0.05)


@pytest.mark.tpu
def test_on_tpu_a_program_that_does_not_fit_is_a_result() -> None:
    found = measure(Request("step", "370M", topology="v5e:4x4"))
    assert not found.fits
    assert found.memory.total > Topology("v5e:4x4").chip.hbm
