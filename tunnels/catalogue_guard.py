"""Findings about the guard, the stages and `verify` (LS5xxx). No I/O."""

from __future__ import annotations

from typing import Final

from linkseal.tunnels.catalogue import Finding

GUARD: Final = (
    Finding(
        "LS5001",
        "error",
        "traffic to a sealed peer left in plaintext",
        "The guard counted packets between this node and a peer whose link is sealed that did not go through the "
        "tunnel: a route, rule or program of somebody else takes them past the door.",
        "Look at the flows in `linkseal status NODE -o wide`, and at `ip rule` and `ip route get` for their addresses.",
    ),
    Finding(
        "LS5002",
        "warning",
        "the guard drops packets",
        "In stage enforce, packets between protected addresses came outside the tunnels and were dropped.",
        "Look at the flows in `linkseal status NODE -o wide`: seal the link they belong to, grant the address to its "
        "node where none is known to have it (`protectedCIDRs`), or exempt them with an owner and a reason.",
    ),
    Finding(
        "LS5003",
        "error",
        "the guard is not whole",
        "A part of the guard is missing in the kernel, was refused by it, or cannot be had there (netdev egress hooks "
        "need Linux 5.16): plaintext could pass.",
        "Look at the message; the agent goes on trying. Do not call this node encrypted until this is over.",
    ),
    Finding(
        "LS5004",
        "error",
        "break-glass is in force",
        "Somebody lifted the guard on this node by hand: plaintext is counted and not dropped.",
        "When the emergency is over: `linkseal agent break-glass --end` on that node.",
    ),
    Finding(
        "LS5005",
        "warning",
        "an exemption has expired",
        "The date of an exemption has passed: what it let through is dropped again.",
        "Take it out of the policy, or give it a new date with a reason.",
    ),
    Finding(
        "LS5006",
        "error",
        "a name or number of the guard is taken",
        "Another program has an nftables table of our guard's name, or uses our mark.",
        "Choose another under `guard` or `routing` in the cluster's policy.",
    ),
    Finding(
        "LS5007",
        "error",
        "packets can pass the guard by a redirect",
        "An XDP program, an AF_XDP socket, or a tc or tcx program of somebody else stands before ours and can send "
        "packets that no hook of the guard sees.",
        "Look at the message for the interface and program. Until then stage enforce is refused on this node.",
    ),
    Finding(
        "LS5008",
        "warning",
        "redirected packets are not guarded",
        "This kernel cannot load the program that stops packets which eBPF or tc redirects past nftables.",
        "Nothing, if no CNI of this node redirects; else use a kernel with cls_bpf (CONFIG_NET_CLS_BPF).",
    ),
)

STAGES: Final = (
    Finding(
        "LS5101",
        "error",
        "the cluster's policy is older than the one in force",
        "The directory offers a policy with a lower serial than this node has accepted, or one that does not follow "
        "what it has accepted, as by a controller that knows only an older state: a restored backup, or a replay. The "
        "one in force stays.",
        "If the directory was restored, let the controller sign the policy again: see that the stage it has is the one "
        "you want, and set `restoredAt` in the spec to the time now. Else find out who wrote there.",
    ),
    Finding(
        "LS5102",
        "error",
        "the cluster's policy is not signed by a trusted CA",
        "The policy in the directory has no valid signature; the last good one stays in force.",
        "Find out who writes to the directory. The controller signs it again by itself.",
    ),
    Finding(
        "LS5103",
        "warning",
        "the stage is not applied yet",
        "This node knows of the cluster's stage and could not apply all of it.",
        "Look at the other findings of this node.",
        ("LS3010", "LS5003", "LS4003", "LS3020"),
        hold=30,
    ),
    Finding(
        "LS5104",
        "error",
        "stage enforce is refused on this node",
        "What the message names would let plaintext pass, so this node does not claim to enforce.",
        "Mend what the message names.",
    ),
)

VERIFY: Final = (
    Finding(
        "LS5201",
        "error",
        "verify saw plaintext on the wire",
        "A canary sent through the tunnel was seen in clear on the underlay.",
        "Run `linkseal verify --pair A,B` again and look at routes and rules of both nodes (`linkseal plan`).",
    ),
    Finding(
        "LS5202",
        "warning",
        "verify was blind",
        "The positive control, a canary sent in clear on purpose, was not seen by the capture: nothing is proven.",
        "Make sure that the interface that the message names is the one that carries the tunnels.",
    ),
    Finding(
        "LS5203",
        "warning",
        "verify could not reach the peer",
        "The peer did not answer through the tunnel, so nothing was proven.",
        "Look at the link's own findings.",
        ("LS2001", "LS2002", "LS2003", "LS2004", "LS4010"),
        hold=30,
    ),
)
