"""Filters that were loosened are put back in stage off, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from linkseal.keys.values import Prefix

from .pair import Node, T, sealed_pair, view


def strict(node: Node) -> None:
    kernel = node.host.kernel
    kernel.main_routes = frozenset({(Prefix("10.244.0.0/16"), "eth0")})
    kernel.interfaces["eth0"] = kernel.interfaces["eth0"]._replace(rp_filter=1)


def rp_filter(node: Node) -> int:
    return node.host.kernel.interfaces["eth0"].rp_filter


def test_stage_off_puts_back_what_was_loosened(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path, scope="overlay")
    strict(a)
    a.run(T + 1)
    assert rp_filter(a) == 2
    assert a.known.changed_rp_filter() == {"eth0": 1}
    a.run(T + 2, view=view(a, b, scope="overlay", stage="prepare"))
    assert rp_filter(a) == 2, "peers may still send outside the tunnel"
    a.run(T + 3, view=view(a, b, scope="overlay", stage="off"))
    assert rp_filter(a) == 1
    assert a.known.changed_rp_filter() == {}
    assert a.run(T + 4).steps == ()


def test_what_somebody_else_changed_since_is_left_alone(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path, scope="overlay")
    strict(a)
    a.run(T + 1)
    a.host.kernel.interfaces["eth0"] = a.host.kernel.interfaces["eth0"]._replace(rp_filter=0)
    a.run(T + 2, view=view(a, b, scope="overlay", stage="off"))
    assert rp_filter(a) == 0


def test_after_a_restart_it_is_known_too_and_what_is_refused_is_tried_again(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path, scope="overlay")
    strict(a)
    a.run(T + 1)
    again = Node(tmp_path / "a", 1, host=a.host)
    again.host.refuse = lambda step: type(step).__name__ == "SetRpFilter"
    again.run(T + 2, view=view(a, b, scope="overlay", stage="off"))
    assert (rp_filter(again), again.known.changed_rp_filter()) == (2, {"eth0": 1})
    again.host.refuse = lambda _: False
    again.run(T + 3)
    assert (rp_filter(again), again.known.changed_rp_filter()) == (1, {})
