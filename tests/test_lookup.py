"""Tables of names: what stands in them arrives, late, and every room's table names what is there."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dimwise import lookup


def test_resolve_takes_a_place_of_a_table() -> None:
    from dimwise.seeds import derive

    assert lookup.resolve("dimwise.seeds:derive") is derive


def test_late_says_which_room_has_no_such_name() -> None:
    get = lookup.late("dimwise.x", {"derive": "dimwise.seeds"})
    with pytest.raises(AttributeError, match=r"^module 'dimwise\.x' has no attribute 'derived'$"):
        get("derived")


@pytest.mark.parametrize("room", ["dimwise", "dimwise.chain", "dimwise.data", "dimwise.measure", "dimwise.ship"])
def test_every_room_with_late_names_keeps_python_s_contract(room: str) -> None:
    module = importlib.import_module(room)
    for name in getattr(module, "__all__", getattr(module, "_EXPORTS", ())):
        assert hasattr(module, name), name
    assert not hasattr(module, "no_such_name")
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'no_such_name'"):
        _ = module.no_such_name


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import sys\nfrom dimwise import measure\nprint('dimwise.measure.timing' in sys.modules, end=' ')\n"
    code += "measure.latency\nprint('dimwise.measure.timing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
