"""A Node that was deleted and registered again: the same name, cluster and disk, another UID.

Clouds do so to a machine that was stopped and started. The word is the grant: a CA trusted here signed it for the new
UID after the one before. By that the node is a new one, so it has new keys: somebody may hold a copy of the disk with
the old ones. What it knows of the others, its policy and its guard stay.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Final

from linkseal.keys import grant as grants
from linkseal.keys.ca import Trust
from linkseal.keys.errors import PeerError
from linkseal.keys.grant import Grant
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.directory.base import DirectoryView

_LOG: Final = logging.getLogger("linkseal.agent")


def registered_again(view: DirectoryView, node: str, uid: str, accepted: Grant | None, trust: Trust) -> str | None:
    """Return the UID that this node has now, by the directory and by its grant there, if that is another than `uid`.

    `accepted`: the grant that counted last: of two for different UIDs the newer is right.
    """
    documents = view.snapshot.nodes.get(node)
    if view.uid in (None, uid) or documents is None or documents.grant is None:
        return None
    try:
        grant = grants.verify(documents.grant, trust, node=node)
    except PeerError:
        return None
    older = accepted is not None and accepted.uid != grant.uid and grant.issued <= accepted.issued
    return None if older or grant.uid != view.uid else grant.uid


def begin_again(state: Path, node: str, uid: str, now: datetime) -> None:
    """Have the state directory belong to the Node of that UID, with new keys. Raises HostError; it can be done again.

    The agent that runs goes on with what it has in memory until it begins anew.
    """
    keyring = Keyring(state, node)
    keyring.take_up()
    before = keyring.uid
    number = keyring.renew(uid, now)
    _LOG.warning(
        "the Node %s was deleted and registered again: its UID was %s and is %s; this node has new keys, generation %d",
        node, before, uid, number,
    )  # fmt: skip
