"""The policy rules of a plan: what goes to the door, what never does, what is exempt. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.exemption import NUMBERS, Exemption
from linkseal.tunnels.guard.plan import serves
from linkseal.tunnels.model import Family, Rule, family_of
from linkseal.tunnels.world import Layout, World

MAIN_TABLE = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""


def own_rules(family: Family, layout: Layout) -> tuple[Rule, Rule]:
    """Return the rule for the tunnels' own packets, and the one that leads everything else to the door.

    Where `main` has no way for the former (a NIC that is gone), they must not come to the latter: they would be
    encrypted again, and again; and the peer would take the tunnel for the way back and keep to it.
    """
    mark = (layout.fwmark, layout.fwmark_mask)
    return (
        Rule(family, layout.rule_priority, MAIN_TABLE, mark),
        Rule(family, layout.rule_priority + 1, layout.table, mark, inverted=True),
    )


def floor_rule(family: Family, layout: Layout) -> Rule:
    """Return the rule that is looked up where the door's route is gone: to the floors."""
    return Rule(family, layout.rule_priority + 2, layout.table + 1)


def exempt_rules(world: World) -> Iterator[Rule]:
    """Connections to an exempt service, and where it is ours its replies, go as if there were no tunnels."""
    for exemption in world.exemptions:
        rule = _exempt_rule(world, exemption)
        yield rule._replace(destination=Prefix(exemption.cidr), destination_port=exemption.port)
        if serves(exemption, world):
            yield rule._replace(source=Prefix(exemption.cidr), source_port=exemption.port)


def _exempt_rule(world: World, exemption: Exemption) -> Rule:
    family = family_of(exemption.cidr)
    return Rule(family, world.layout.rule_priority, MAIN_TABLE, protocol=NUMBERS[exemption.protocol])
