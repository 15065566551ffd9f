"""Findings about the host (LS3xxx) and about agent and directory (LS4xxx). No I/O."""

from __future__ import annotations

from typing import Final

from linkseal.tunnels.catalogue import Finding

HOST: Final = (
    Finding(
        "LS3001",
        "error",
        "no WireGuard on this host",
        "The kernel has no WireGuard (or the module cannot be loaded) and wireguard-go was not found.",
        "Load the module (`modprobe wireguard`), use a kernel from 5.6 on, or install wireguard-go.",
    ),
    Finding(
        "LS3002",
        "error",
        "nft was not found",
        "The command `nft`, by which the door's map is written, is missing or does not run.",
        "Install nftables 1.0 or newer.",
    ),
    Finding(
        "LS3003",
        "warning",
        "no door on this kernel",
        "The kernel is older than 5.16 or has no nftables `fwd`: routes go to each slot, and masqueraded connections "
        "reset whenever a key changes.",
        "Use a kernel from 5.16 on with CONFIG_NFT_FWD_NETDEV.",
        ("LS3002",),
    ),
    Finding(
        "LS3004",
        "error",
        "UDP port in use",
        "Another program has one of the four ports from `wireguard.port` on.",
        "See who with `ss -ulpn`; stop it or choose another `wireguard.port` for the cluster.",
    ),
    Finding(
        "LS3005",
        "error",
        "not enough privileges",
        "The agent is not root and has no CAP_NET_ADMIN, or runs in a user namespace that does not own the network.",
        "Run it as root, or give it CAP_NET_ADMIN.",
    ),
    Finding(
        "LS3006",
        "info",
        "a reverse path filter was loosened",
        "The underlay's interface, or another by which peers are reached without Linkseal, had a strict rp_filter: it "
        "drops what arrives there once this host sends into the tunnel. It was set to loose (2).",
        "Nothing. Stage off and `linkseal agent cleanup` put it back. To be rid of this, set "
        "net.ipv4.conf.*.rp_filter=2 yourself.",
    ),
    Finding(
        "LS3007",
        "warning",
        "the CNI's MTU is larger than the tunnel carries",
        "Packets of pods are larger than what fits into the tunnel without fragments, so they are cut or refused with "
        "ICMP.",
        "Set the CNI's MTU to the value in the message.",
    ),
    Finding(
        "LS3008",
        "warning",
        "path is narrower than the NIC",
        "The path to a peer carries less than the NIC's MTU; the routes to it were given a smaller one.",
        "Nothing, if that is how the network is. Else repair the path's MTU.",
    ),
    Finding(
        "LS3009",
        "info",
        "drift was healed",
        "Something of ours was changed or removed by another program and has been put back.",
        "If it comes back, find the program: the message names what was changed.",
    ),
    Finding(
        "LS3010",
        "error",
        "the kernel refused a step",
        "A change of interfaces, routes, rules or nftables was refused; it is tried again with increasing pauses.",
        "Look at the message for the step and the error.",
        ("LS3001", "LS3002", "LS3004", "LS3005"),
    ),
    Finding(
        "LS3011",
        "error",
        "forwarding is off",
        "IP forwarding is off, so packets between pods and tunnels are dropped (scope overlay).",
        "Set net.ipv4.ip_forward=1 and, with IPv6, net.ipv6.conf.all.forwarding=1.",
    ),
    Finding(
        "LS3012",
        "error",
        "the probe range is used inside the cluster",
        "An address or prefix of the cluster lies in `probe.prefix4` or `probe.prefix6`, so probes would reach it.",
        "Choose other probe prefixes in the cluster's policy.",
    ),
    Finding(
        "LS3013",
        "error",
        "routing table, rule priority or mark is taken",
        "Another program uses our routing table, rule priority or packet mark.",
        "Choose others under `routing` in the cluster's policy; the message names the one that is taken.",
    ),
    Finding(
        "LS3014",
        "error",
        "state directory has unsafe permissions",
        "The state directory or a key in it can be read or changed by others than root; keys in it are not used.",
        "chown root and chmod 0700 the directory, 0600 the keys. If others may have read them, rotate the node's keys.",
    ),
    Finding(
        "LS3015",
        "error",
        "last known good was not saved",
        "The state directory's disk is full or read-only: after a reboot this node would start from older knowledge.",
        "Free space or make the file system writable.",
    ),
    Finding(
        "LS3016",
        "warning",
        "the clock stepped back",
        "The clock was set back; peers would refuse handshakes with the present keys. A new generation was raised.",
        "Repair the clock's source (NTP, virtual machine).",
    ),
    Finding(
        "LS3017",
        "error",
        "IPv6 is disabled on this host",
        "IPv6 prefixes are granted to nodes, but this host has IPv6 switched off: they cannot be carried.",
        "Set net.ipv6.conf.all.disable_ipv6=0, or grant no IPv6 prefixes.",
    ),
    Finding(
        "LS3018",
        "error",
        "a foreign rule comes before ours",
        "A policy routing rule with a lower priority number takes protected packets before our rule sees them: they "
        "leave unencrypted.",
        "Set `routing.rulePriority` below that rule's, or move the rule.",
    ),
    Finding(
        "LS3019",
        "warning",
        "a network manager removes foreign routes",
        "NetworkManager or systemd-networkd manages our interfaces, or removes routes and rules it has not made.",
        "Set ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no in networkd.conf; in NetworkManager add "
        "`unmanaged-devices=interface-name:lsl*`.",
    ),
    Finding(
        "LS3020",
        "error",
        "no underlay interface",
        "None of the addresses granted to this node is on it, or the interface named in the settings is not there.",
        "Correct the addresses in the grant (inventory), or set `interface` in the agent's settings.",
    ),
    Finding(
        "LS3021",
        "error",
        "the data path is not whole",
        "What sends traffic to a peer into its tunnel (rules, routes, the door's chain and map, the slot and its peer) "
        "was not in the kernel as it must be when it was looked at: a packet would not go encrypted.",
        "Nothing, if it is over in a moment: the agent puts it back. If it stays, look for what changes it "
        "(LS3009 names what was put back), and at steps that the kernel refuses.",
        ("LS3010", "LS3004"),
    ),
    Finding(
        "LS3022",
        "warning",
        "a route of another's leads into the tunnels",
        "Routes of the table `main` name an interface of ours: they were made by a gateway that is a peer's, without a "
        "NIC, and the kernel looked that up by all rules. They go when the tunnels go: after stage `off` nothing leads "
        "to their prefixes until whoever made them makes them again.",
        "Have their maker name the NIC (`dev`); before `linkseal disable`, make them anew that way.",
    ),
    Finding(
        "LS3023",
        "error",
        "no boot unit",
        "What restores guard and tunnels when this host boots could not be installed on it: until its agent runs again "
        "after a reboot its traffic is plaintext, or lost. The cluster does not enter stage enforce meanwhile; a node "
        "that comes into one at enforce enforces all the same, but for its own next boot.",
        "Do what the message says; it is tried again every minute. A host without systemd, or with a read-only /etc, "
        "cannot have one.",
    ),
    Finding(
        "LS3024",
        "error",
        "this Kubernetes is too old",
        "Tokens of pods do not say on which node they run before Kubernetes 1.30: nobody could tell whose certificate "
        "an agent may ask for.",
        "Upgrade the cluster.",
    ),
    Finding(
        "LS3025",
        "error",
        "the address provider does not cover the pods",
        "Pods have addresses that their nodes would not be granted by the address provider that was chosen: what is in "
        "no grant is not encrypted.",
        "Choose the provider of your CNI with `controller.addressProvider` (docs/kubernetes.md); `pods` fits all.",
    ),
    Finding(
        "LS3026",
        "error",
        "the CNI's own tunnels pass ours by",
        "This CNI wraps pods' packets before any route of ours is asked, so in scope `overlay` they would not go into "
        "our tunnels.",
        "Use scope `transparent`, which carries what the CNI has wrapped; or have the CNI route pods without tunnels.",
    ),
    Finding(
        "LS3027",
        "warning",
        "nodes that can have no agent",
        "Agents run on Linux only. Traffic from and to these nodes stays plaintext, and is listed as not covered.",
        "Nothing, if that is known; else move what must be encrypted to other nodes.",
    ),
    Finding(
        "LS3028",
        "warning",
        "nodes may claim any address",
        "It is not said where the addresses of nodes, or the prefixes of their pods, may be. Whoever has a kubelet's "
        "credential gets any granted that no other node holds, and so draws traffic to that node.",
        "Set `controller.nodeNetworks` and `controller.podNetworks` of the chart to the networks of your cluster; "
        "0.0.0.0/0 and ::/0 if they may be anywhere. Stage enforce is not entered without.",
    ),
)

AGENT: Final = (
    Finding(
        "LS4001",
        "error",
        "directory cannot be read",
        "The directory (cluster API or folder) does not answer or cannot be read. What works stays as it is.",
        "Check that it is mounted or reachable and that the agent may read it.",
        hold=10,
    ),
    Finding(
        "LS4002",
        "warning",
        "no certificate yet",
        "The node asked for a certificate and the signer has not issued one; until then it announces nothing.",
        "Run the signer or look at the controller; the node must be in the inventory, under the UID it asks with.",
        ("LS4001",),
        hold=30,
    ),
    Finding(
        "LS4003",
        "error",
        "no grant for this node",
        "The cluster has not said which addresses and prefixes this node owns, so it takes part in nothing.",
        "Add the node to the signer's inventory, or look why the controller grants it nothing.",
        ("LS4001",),
        hold=30,
    ),
    Finding(
        "LS4004",
        "error",
        "announcement could not be published",
        "Writing this node's announcement to the directory failed; peers keep what they have.",
        "Check that the agent may write its own entry and that the disk is not full.",
        ("LS4001",),
        hold=15,
    ),
    Finding(
        "LS4005",
        "warning",
        "directory is older than this node's disk",
        "The directory holds an older state of this node than its disk: a restored backup. It publishes again, higher.",
        "Nothing, if the directory was restored. Else find out who wrote there.",
    ),
    Finding(
        "LS4006",
        "warning",
        "rotation is held",
        "The old generation cannot be retired: links in the message are alive on it and not proven on the new one.",
        "Look at `linkseal links` for them. A link that is dead for 10 minutes no longer holds a rotation.",
        hold=60,
    ),
    Finding(
        "LS4007",
        "warning",
        "a node's agent is silent",
        "A node has not reported for 15 minutes: its agent or the node is down. What it does is unknown, not fine.",
        "Look at that node; start its agent. Remove the node from the directory if it is gone.",
    ),
    Finding(
        "LS4008",
        "error",
        "neither end can be reached",
        "Neither this node nor the peer has an endpoint, so nobody can begin.",
        "Give one of them `endpoints`, or set `peerEndpoints` at the other.",
    ),
    Finding(
        "LS4009",
        "error",
        "peer speaks another protocol or format",
        "The peer announces another protocol, or lacks a capability that is needed, so that no tunnel is possible.",
        "Upgrade the older node, or wait for the cluster's change of protocol to end.",
    ),
    Finding(
        "LS4010",
        "warning",
        "node without agent",
        "The cluster granted this node addresses, but it announces nothing: traffic to it is not encrypted.",
        "Start an agent there, or opt the node out if that is meant.",
        # what it announces may be refused, for a reason that is told
        ("LS1001", "LS1002", "LS1003", "LS1004", "LS1005", "LS1007", "LS1008", "LS1009", "LS1010", "LS4011"),
        hold=30,
    ),
    Finding(
        "LS4011",
        "info",
        "node is opted out",
        "The grant says that this node is not protected: traffic to it is not encrypted.",
        "Nothing, if it is meant.",
    ),
    Finding(
        "LS4012",
        "warning",
        "the directory's folder can be written by others",
        "Somebody else than root may replace what is in the directory. Everything in it is signed, but it could be "
        "withheld or replayed.",
        "Do what the message says.",
    ),
    Finding(
        "LS4013",
        "error",
        "the cluster's policy is refused",
        "The policy in the directory has an error, or changes what nodes stand on while they are not at stage off. The "
        "last one that was good stays in force.",
        "Correct the field that the message names. To change ports, marks, tables or probe addresses: `linkseal "
        "disable`, change them, then `linkseal enable`. Where a cluster goes on from another (`formerClusters`), say "
        "in its spec what was there.",
    ),
    Finding(
        "LS4014",
        "warning",
        "metrics are not served",
        "The address for /metrics, /healthz and /readyz cannot be listened on; everything else goes on.",
        "Choose another address under `metrics.listen` in the agent's file, or end what uses it.",
    ),
    Finding(
        "LS4015",
        "warning",
        "the cluster's policy says more than this version knows",
        "A newer controller signed fields that this agent does not know. It does all else; an exemption with such a "
        "field is not in force here.",
        "Upgrade the agent of this node, or take the fields that the message names out of the policy.",
    ),
)
