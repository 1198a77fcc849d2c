"""What a run counts as held of the cluster."""

import time

import pytest

from actors.held import Held


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_resources_are_counted_while_a_process_has_them(clock):
    held = Held()
    held.take("a", {"CPU": 2, "GPU": 1})
    clock[0] += 10
    held.take("a", {"CPU": 2, "GPU": 1})  # said again by another worker of the same
    held.take("b", {"GPU": 0.5}, ago_s=2)
    clock[0] += 10
    assert held.pop() == {"CPU": 40, "GPU": 26}
    held.leave("a")
    clock[0] += 4
    held.leave("b")
    held.leave("c")
    clock[0] += 100
    assert held.pop() == {"CPU": 0, "GPU": 2}
    assert held.pop() == {}
