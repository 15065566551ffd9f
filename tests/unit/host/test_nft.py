"""Whether there can be a door: only the kernel's plain no takes it away."""

from __future__ import annotations

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.host import nft as nft_module
from linkseal.tunnels.host.nft import Nft
from linkseal.tunnels.model import Ruleset
from linkseal.tunnels.nftables import door_chain

DOOR = door_chain()
STANDING = Ruleset({(DOOR.family, DOOR.name): DOOR})
HUNG = "cannot run nft: timed out after 30 seconds"
BUSY = "nft -j -c failed: internal:0:0-0: Error: Could not process rule: Device or resource busy"


class Trial:
    """Stands for nft: refuses with these words one after the other, then agrees."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.tried = 0

    def __call__(self, *_: object) -> None:
        self.tried += 1
        if self.words:
            raise HostError(self.words.pop(0))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft_module, "_PAUSES", (0.0, 0.0))


def door(monkeypatch: pytest.MonkeyPatch, trial: Trial, found: Ruleset | None = None) -> bool:
    monkeypatch.setattr(nft_module, "_execute", trial)
    monkeypatch.setattr(Nft, "read", lambda _: found)
    return Nft().has_door()


@pytest.mark.parametrize(
    "words",
    [
        "nft -j -c failed: internal:0:0-0: Error: Could not process rule: Operation not supported",
        "nft -j -c failed: internal:0:0-0: Error: Could not process rule: No such file or directory",
        "nft is not installed: install the package nftables (1.0.6 or later)",
    ],
)
def test_a_plain_no_is_believed_at_once(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    trial = Trial(words)
    assert not door(monkeypatch, trial)
    assert trial.tried == 1


@pytest.mark.parametrize("words", [HUNG, BUSY])
def test_a_hiccup_is_no_answer_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    assert door(monkeypatch, Trial(words, words))
    with pytest.raises(HostError, match=words[:20]):
        door(monkeypatch, Trial(words, words, words))


@pytest.mark.parametrize("words", [HUNG, "… Could not process rule: No such file or directory"])
def test_a_door_that_stands_can_stand(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    trial = Trial(words)
    assert door(monkeypatch, trial, STANDING)
    assert trial.tried == 1
    assert not door(monkeypatch, Trial("rule: Operation not supported"), Ruleset())
