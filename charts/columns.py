"""What `kubectl get` shows of the two kinds of objects; see crds.py."""

from __future__ import annotations

from typing import Any

WIDE = 1

CLUSTER_COLUMNS: list[tuple[Any, ...]] = [
    ("Stage", "string", ".status.stage", "where the cluster is"),
    ("Target", "string", ".spec.stage", "where it is to be"),
    ("Scope", "string", ".spec.scope", "what the tunnels carry"),
    ("Protocol", "string", ".spec.protocol", "how packets are encrypted"),
    ("Sealed", "integer", ".status.links.sealed", "links whose traffic is encrypted"),
    ("Links", "integer", ".status.links.total", "links that there should be"),
    ("Nodes", "integer", ".status.nodes", "nodes that take part"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
    (
        "Position",
        "string",
        ".status.position",
        "the same in words, and what it waits for",
        WIDE,
    ),
    ("Accepted", "string", ".status.conditions[?(@.type=='Accepted')].reason", "whether the spec is in force", WIDE),
    ("Granted", "string", ".status.conditions[?(@.type=='Granted')].reason", "whether every node has its grant", WIDE),
    ("CA", "string", ".status.conditions[?(@.type=='CASteady')].reason", "whether one CA is in force", WIDE),
]

NODE_COLUMNS: list[tuple[Any, ...]] = [
    ("Stage", "string", ".status.stage", "the stage this node acts by"),
    ("Sealed", "integer", ".status.links.sealed", "peers to which its traffic is encrypted"),
    ("Total", "integer", ".status.links.total", "peers to which it should be"),
    ("Generation", "integer", ".status.generations[-1:].number", "its newest key"),
    ("Guard", "string", ".status.guard.mode", "what happens to plaintext"),
    ("Reported", "date", ".status.observedAt", ""),
    ("Version", "string", ".status.version", ""),
    ("Age", "date", ".metadata.creationTimestamp", ""),
    (
        "Applied",
        "string",
        ".status.conditions[?(@.type=='Applied')].status",
        "whether the kernel is as it should be",
        WIDE,
    ),
    ("Policy", "integer", ".status.policy.serial", "serial of the policy it acts by", WIDE),
    ("Whole", "string", ".status.conditions[?(@.type=='Guarded')].reason", "what the guard does, or lacks", WIDE),
    ("Boot", "string", ".status.boot.state", "what brings it back at boot", WIDE),
    ("Driver", "string", ".status.driver", "", WIDE),
    ("Kernel", "string", ".status.kernel", "", WIDE),
    ("MTU", "integer", ".status.mtu", "bytes that tunnels carry", WIDE),
]
"""Name, type, path, what it says; those that are `WIDE` only with `-o wide`."""
