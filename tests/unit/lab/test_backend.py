"""Which backend the lab takes, for every machine there may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab import backend
from linkseal.tunnels.lab.backend import Backend, Facts, choose, require_host, without_lab_kernel

LAB = Path("/cache/linux")
NO_GO = "no wireguard-go: none on PATH; install it (Debian: `apt install wireguard-go`)"


@pytest.mark.parametrize(
    ("facts", "chosen", "why"),
    [
        (Facts(None, LAB, None), Backend.KERNEL, "the running kernel has WireGuard"),
        (Facts(None, None, NO_GO), Backend.KERNEL, "the running kernel has WireGuard"),
        (Facts("no WireGuard in it", LAB, None), Backend.LAB, "no WireGuard in it"),
        (Facts("no WireGuard in it", LAB, NO_GO), Backend.LAB, "a lab kernel is in the cache"),
        (Facts("no WireGuard in it", None, None), Backend.USERSPACE, "no lab kernel is cached"),
    ],
)
def test_auto_takes_the_best_there_is_and_says_why(facts: Facts, chosen: Backend, why: str) -> None:
    choice = choose("auto", facts)
    assert choice.backend is chosen
    assert why in choice.why


def test_a_lab_kernel_that_does_not_boot_leaves_the_next_best() -> None:
    facts = Facts("no WireGuard in it", LAB, None)
    assert choose("auto", without_lab_kernel(facts)).backend is Backend.USERSPACE


@pytest.mark.parametrize("wish", ["auto", "kernel", "lab", "userspace"])
def test_where_nothing_works_the_error_says_what_to_do(wish: str) -> None:
    with pytest.raises(HostError, match=r"install it|make test|leave --backend out"):
        choose(wish, Facts("no WireGuard in it", None, NO_GO))


@pytest.mark.parametrize("wish", list(Backend))
def test_a_wish_is_followed_even_if_there_is_better(wish: Backend) -> None:
    assert choose(wish, Facts(None, LAB, None)).backend is wish


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel, lab, userspace"):
        choose("magic", Facts(None, None, None))


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="run it as root"):
        require_host()


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(backend, "TOOLS", {"no-such-program": "no-such-package", "sh": "dash"})
    with pytest.raises(HostError, match=r"apt-get install no-such-package$"):
        require_host()
