from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimwise.errors import RecipeError
from dimwise.plan.budget import Budget, Target, parse, write
from dimwise.ship.runtimes import RUNTIMES


def test_every_runtime_can_be_a_target():
    assert set(get_args(get_type_hints(Target)["runtime"])) == set(RUNTIMES)


def test_the_line_of_the_help():
    budget, target = parse(
        "latency<=0.5ms, size<=200kB, memory<=20MB, drop<=0.5pt, batch=1, threads=1, runtime=onnxruntime"
    )
    assert budget == Budget(latency_ms=0.5, size_bytes=200_000, memory_bytes=20_000_000, drop=0.005)
    assert target == Target(runtime="onnxruntime", threads=1, batch=1)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("latency<=250us", "latency_ms", 0.25),
        ("latency < 2 s", "latency_ms", 2000.0),
        ("latency≤1e-1ms", "latency_ms", 0.1),
        ("size<=1KiB", "size_bytes", 1024),
        ("size <= .5 MB", "size_bytes", 500_000),
        ("drop<=0", "drop", 0.0),
        ("drop<=1%", "drop", 0.01),
        ("drop<=0pt", "drop", 0.0),
        ("prefer=size", "prefer", "size"),
    ],
)
def test_units(text, field, value):
    assert getattr(parse(text)[0], field) == pytest.approx(value) if field != "prefer" else "size"


def test_what_the_text_does_not_say_stays():
    budget, target = parse("", Budget(latency_ms=3, drop=0.1), Target(threads=4))
    assert (budget, target) == (Budget(latency_ms=3, drop=0.1), Target(threads=4))
    budget, target = parse("threads=2,", Budget(latency_ms=3), Target(runtime="openvino"))
    assert (budget.latency_ms, target) == (3, Target(runtime="openvino", threads=2))


@given(
    drop=st.integers(0, 1000).map(lambda n: n / 1000),
    latency_ms=st.sampled_from([0.0, 0.02, 1.5, 120.0]),
    size_bytes=st.integers(0, 10**9),
    memory_bytes=st.integers(0, 10**9),
    prefer=st.sampled_from(["latency", "size"]),
    runtime=st.sampled_from(sorted(RUNTIMES)),
    threads=st.integers(1, 64),
)
def test_writing_and_reading_give_the_same(drop, latency_ms, size_bytes, memory_bytes, prefer, runtime, threads):
    budget = Budget(drop=drop, latency_ms=latency_ms, size_bytes=size_bytes, memory_bytes=memory_bytes, prefer=prefer)
    target = Target(runtime=runtime, threads=threads)
    again, where = parse(write(budget, target))
    assert again.drop == pytest.approx(drop, abs=1e-12)
    assert (again.latency_ms, again.size_bytes, again.memory_bytes) == (latency_ms, size_bytes, memory_bytes)
    assert (again.prefer, where) == (prefer, target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latncy<=1ms", "unknown term 'latncy'; expected one of: latency, .*did you mean 'latency'"),
        ("latency<=1kB", "latency has no unit 'kB'; expected one of: us, µs, ms, s"),
        ("latency<=1", "latency<=1 has no unit; expected one of: us"),
        ("size<=1mb", "size has no unit 'mb'; .*did you mean 'MB'"),
        ("latency>=1ms", "'latency>=1ms' is no upper limit; expected latency<=1ms"),
        ("latency=1ms", "is no upper limit"),
        ("latency<=-1ms", "latency<='-1ms' is no amount"),
        ("latency<=", "latency<='' is no amount"),
        ("latency<=nanms", "is no amount"),
        ("size<=0kB", "size<=0kB leaves nothing; expected an amount above 0"),
        ("drop<=0.5", "drop<=0.5 has no unit; expected one of: pt"),
        ("drop<=150pt", "drop = 1.5 is not valid"),
        ("threads<=2", "'threads<=2' is no limit; expected threads=VALUE"),
        ("threads=two", "threads='two' is no whole number"),
        ("threads=0", "threads = 0 is not valid"),
        ("runtime=onxruntime", "unknown runtime 'onxruntime'; .*did you mean 'onnxruntime'"),
        ("prefer=speed", "prefer = 'speed' is not valid"),
        ("size<=1MB, size<=2MB", "'size' is said twice"),
        ("fast please", "'fast please' cannot be read; expected terms as in"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)
