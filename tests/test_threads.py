"""Calls go side by side, in equal shares, and give what they would give one after the other."""

import threading
import time

import hypothesis
import hypothesis.strategies as st
import jax
import pytest

from pirn_jax import threads


@pytest.fixture
def one_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "local_devices", lambda: ["cpu"])


@pytest.mark.usefixtures("one_cpu")
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.integers(1, 60), st.integers(1, 8))
def test_shares_are_equal_cover_all_and_are_as_small_as_asked_for(count, least):
    found = threads.shares(count, least)
    places = [range(count)[share] for share in found]
    assert [i for share in places for i in share] == list(range(count))
    sizes = {len(share) for share in places}
    assert len(sizes) == 1
    (size,) = sizes
    assert size >= min(least, count)
    assert not [some for some in range(least, size) if count % some == 0]


@pytest.mark.parametrize(("backend", "devices"), [("gpu", 1), ("cpu", 2)])
def test_accelerators_and_several_devices_take_all_in_one_call(backend, devices, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [backend] * devices)
    assert threads.shares(10, 2) == [slice(0, 10)]


def test_all_calls_go_side_by_side_and_results_keep_their_order():
    together = threading.Barrier(5, timeout=20)

    def call(a, b):
        together.wait()
        return a, b

    assert threads.each(call, range(5), "abcde") == list(zip(range(5), "abcde", strict=True))


def test_no_more_calls_than_allowed_go_side_by_side():
    lock, running, most = threading.Lock(), 0, 0

    def call(i):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return i

    assert threads.each(call, range(6), at_once=2) == list(range(6))
    assert most == 2


def test_a_single_call_stays_in_its_thread():
    assert threads.each(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


def test_what_a_call_raises_reaches_the_caller():
    def call(i):
        if i == 1:
            raise FloatingPointError("of the second call")
        return i

    with pytest.raises(FloatingPointError, match="of the second call"):
        threads.each(call, range(3))


def test_of_threads_that_ask_at_once_one_computes():
    calls = []

    @threads.once
    def compute(number):
        calls.append(number)
        time.sleep(0.05)
        return [number]

    found = threads.each(compute, [1, 1, 1, 2])
    assert found == [[1], [1], [1], [2]]
    assert found[0] is found[1] is found[2]
    assert sorted(calls) == [1, 2]
