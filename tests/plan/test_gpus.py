"""GPUs by closed form: nodes of them, their links, and a mesh that fits where the one asked for does not."""

from dataclasses import replace

import pytest

from plan.chips import CHIPS, Side, Topology
from plan.outlook import by_closed_form
from plan.request import Request
from plan.search import fastest_fit, in_words
from plan.times import collective_seconds
from reference.errors import ConfigError

NODE, NETWORK = Side(8, False, 1.0), Side(2, False, 50 / 450)


def test_nodes_of_gpus_are_topologies() -> None:
    assert Topology("h100:8").sides == (NODE,)
    assert Topology("h200:2x8").sides == (NETWORK, NODE)
    assert Topology("a100:4x8").devices == 32
    assert Topology("h100:2x8").split((2, 8, 1)) == ((NETWORK,), (NODE,), ())
    assert Topology("h100:2x8").split((4, 4, 1))[1] == (replace(NODE, length=4),)
    for name in ("h100:2x2x8", "h100", "h100:0", "b200:8"):
        with pytest.raises(ConfigError):
            Topology(name)


def test_collectives_of_gpus_take_what_switches_and_the_network_let_through() -> None:
    link = CHIPS["h100"].link_bandwidth
    assert link == 450e9
    # Within a node each GPU receives seven eighths over its own link, and no two halves share one.
    for kind, times in (("all-gather", 1), ("all-reduce", 2), ("all-to-all", 1)):
        assert collective_seconds(kind, 8 * 450, (NODE,), link) == pytest.approx(times * 7 / 1e9)
    # Of two nodes: half of an all-to-all goes over each GPU's 50 GB/s; half of what is gathered over those of eight together.
    assert collective_seconds("all-to-all", 1000, (NETWORK, NODE), link) == pytest.approx(500 / 50e9)
    assert collective_seconds("all-gather", 1600, (NETWORK, NODE), link) == pytest.approx(1500 / 500e9)
    assert collective_seconds("all-gather", 1600, (replace(NETWORK, length=16),), link) == pytest.approx(1500 / 50e9)


def test_the_search_finds_the_fastest_step_that_fits() -> None:
    request = Request("step", size="370M", experts=64, topology="v5e:4x4")
    asked = by_closed_form(request, 1)
    assert not asked.fits
    found = fastest_fit(request, 1)
    assert found is not None
    assert found.fits
    # Among what was tried: nothing that fits takes less, of the same mesh and twice the microbatches least of all.
    slower = by_closed_form(replace(found.request, microbatches=2 * found.request.microbatches), 1)
    assert slower.time.overlapped + slower.time.serial >= found.time.overlapped + found.time.serial
    line = in_words(found)
    data, expert, model = found.request.axes
    assert f"--mesh data={data},expert={expert},model={model} --microbatches {found.request.microbatches} does" in line
    assert "\n" not in line
    assert fastest_fit(replace(request, size="7B", topology="v5e:2x2"), 1) is None
