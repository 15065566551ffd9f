"""What `agent restore` does before there is a network, and without WireGuard; any kernel with TUN does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import ANY

import pytest
from ground.agents import Deployment, Nodes
from ground.boot import BootHost, lose_power, run_on
from ground.net import Node
from linkseal.keys.errors import HostError
from linkseal.keys.store import KeyStore
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent import rescue
from linkseal.tunnels.boot.install import command_of, install


@contextmanager
def without_agent(nodes: Nodes, scope: str) -> Iterator[tuple[Deployment, Node]]:
    """A node of a sealed cluster whose agent was killed."""
    cluster = nodes(2, cni="host-gw", families=("4", "6"))
    with Deployment(cluster, scope=scope, stage="enforce") as linkseal:
        for node in cluster:
            node.hold()
            linkseal.settings[node.name] = {"wireguard": {"driver": "userspace"}}
        linkseal.start()
        linkseal.wait_sealed()
        node = cluster[0]
        linkseal.stop(node, signal.SIGKILL)
        yield linkseal, node


@contextmanager
def without_power(nodes: Nodes, scope: str) -> Iterator[tuple[Deployment, Node]]:
    """A node of a sealed cluster whose kernel has forgotten everything, addresses included."""
    with without_agent(nodes, scope) as (linkseal, node):
        lose_power(linkseal.cluster, node)
        yield linkseal, node


def assert_nothing_leaks(linkseal: Deployment, node: Node) -> None:
    """What the node and its pod send to the other one is not in plaintext on the wire."""
    with linkseal.cluster.capture() as wire:
        node.pods[0].run(f"ping -c 2 -i 0.2 -W 1 {linkseal.cluster[1].pods[0].address4}", check=False)
        node.run(f"ping -c 2 -i 0.2 -W 1 {linkseal.cluster[1].address4}", check=False)
    assert wire.plaintext() == []


@pytest.mark.userspace
@pytest.mark.parametrize("scope", ["overlay", "transparent"])
def test_restore_needs_no_address_and_finishes_when_there_is_one(nodes: Nodes, scope: str) -> None:
    with without_power(nodes, scope) as (linkseal, node):
        settings = linkseal.agent_settings(node)
        assert set(linkseal.run_in(node, rescue.missing_addresses, settings)) == set(node.addresses)
        assert linkseal.run_in(node, agent.restore, settings) > 10
        assert "lsl0" in node.run("ip -br link")
        assert "drop" in node.run("nft list table inet linkseal_guard")
        with linkseal.cluster.capture() as wire:
            linkseal.cluster.new_nic(node)
            linkseal.run_in(node, rescue.wait_for_address, settings, 10.0)
            assert linkseal.run_in(node, rescue.missing_addresses, settings) == ()
            peer = linkseal.cluster[1].pods[0]
            assert linkseal.run_in(node, agent.restore, settings) > 0, "what is on the NIC"
            node.pods[0].run(f"ping -c 20 -i 0.5 -W 1 {peer.address4}")  # fails if none is answered
            assert linkseal.run_in(node, agent.restore, settings) == 0
        assert wire.plaintext() == []
        assert "wireguard" in wire.kinds()


@pytest.mark.userspace
@pytest.mark.parametrize("damaged", ["keys/gen-1.key", "generations.json"])
def test_keys_that_cannot_be_read_keep_no_guard_away(nodes: Nodes, damaged: str) -> None:
    """Nothing is carried until there is another key, which the agent makes; nothing leaks meanwhile."""
    with without_power(nodes, "transparent") as (linkseal, node):
        file = linkseal.state(node) / damaged
        file.write_text("damaged\n")
        settings = linkseal.agent_settings(node)

        def restore() -> None:
            with pytest.raises(HostError, match=f"so the guard is there: .*{damaged} is damaged"):
                linkseal.run_in(node, agent.restore, settings)

        restore()
        linkseal.cluster.new_nic(node)
        restore()  # with what is on the NIC, as units do
        assert KeyStore(linkseal.state(node)).key_numbers() == (1,), "nothing is made"
        assert_nothing_leaks(linkseal, node)
        file.unlink()  # as the error says
        with pytest.raises(HostError, match="has lost the keys that it announced"):
            linkseal.run_in(node, agent.restore, settings)
        linkseal.start(node)
        linkseal.wait_sealed()
        assert [one.number for one in linkseal.status(node).generations] == [2]


@pytest.mark.userspace
def test_an_identity_that_cannot_be_read_keeps_no_tunnel_away(nodes: Nodes) -> None:
    with without_power(nodes, "transparent") as (linkseal, node):
        file = linkseal.state(node) / "identity.key"
        file.write_text("damaged\n")
        linkseal.cluster.new_nic(node)
        with pytest.raises(HostError, match=r"so the guard is there: .*identity\.key is damaged"):
            linkseal.run_in(node, agent.restore, linkseal.agent_settings(node))
        peer = linkseal.cluster[1].pods[0]
        node.pods[0].run(f"ping -c 20 -i 0.5 -W 1 {peer.address4}")  # fails if none is answered
        file.unlink()  # as its error says, and then the signer's
        (linkseal.directory / "nodes" / node.name / "certificate.pem").unlink()
        linkseal.start(node)
        signer_runs = "every link sealed, by new certificates too"
        linkseal.until(lambda: linkseal.sign() or linkseal.all_sealed(), signer_runs)  # type: ignore[func-returns-value]
        assert [one.number for one in linkseal.status(node).generations] == [1]


@pytest.mark.userspace
def test_where_tunnels_stand_a_damaged_key_takes_none_down(nodes: Nodes) -> None:
    """As break-glass without an agent would."""
    with without_agent(nodes, "transparent") as (linkseal, node):
        (linkseal.state(node) / "keys" / "gen-1.key").write_text("damaged\n")
        with pytest.raises(HostError, match="the tunnels that stand are left as they are"):
            linkseal.run_in(node, agent.restore, linkseal.agent_settings(node))
        node.pods[0].run(f"ping -c 3 -i 0.2 -W 1 {linkseal.cluster[1].pods[0].address4}")


@pytest.mark.userspace
def test_a_wait_for_addresses_ends(nodes: Nodes) -> None:
    with without_power(nodes, "overlay") as (linkseal, node):
        linkseal.run_in(node, rescue.wait_for_address, linkseal.agent_settings(node), 0.5)


@pytest.mark.userspace
def test_without_wireguard_the_guard_comes_up_all_the_same(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade of the kernel that has none: nothing is carried, and nothing leaks."""
    with without_power(nodes, "transparent") as (linkseal, node):
        monkeypatch.setenv("LINKSEAL_WIREGUARD_GO", "/none")
        with pytest.raises(HostError, match="not everything could be restored: no WireGuard on this host"):
            linkseal.run_in(node, agent.restore, linkseal.agent_settings(node))
        linkseal.cluster.new_nic(node)
        assert_nothing_leaks(linkseal, node)


@contextmanager
def with_boot_unit(nodes: Nodes) -> Iterator[tuple[Deployment, Node, BootHost]]:
    """A node whose agent was ended after it had put its boot units there."""
    cluster = nodes(1)
    with Deployment(cluster, stage="prepare") as linkseal:
        (node,) = cluster
        node.hold()
        host = BootHost(linkseal.folder / "host")
        linkseal.settings[node.name] = {"wireguard": {"driver": "userspace"}, "boot": host.settings}
        linkseal.start()
        linkseal.until(lambda: linkseal.status(node).boot.state == "installed", "a boot unit")
        linkseal.stop(node)
        yield linkseal, node, host


@pytest.mark.userspace
def test_cleanup_takes_the_boot_unit_too(nodes: Nodes) -> None:
    with with_boot_unit(nodes) as (linkseal, node, host):
        assert "linkseal-restore" in " ".join(unit.name for unit in host.enabled("multi-user.target"))
        assert "nothing" not in linkseal.run_in(node, rescue.check, linkseal.agent_settings(node))
        lines = linkseal.run_in(node, lambda: agent.cleanup(linkseal.agent_settings(node), withdraw=False))
        assert len([line for line in lines if line.startswith(("systemd unit", "boot root"))]) == 3, lines
        assert not list(host.units.rglob("*.service"))
        assert not (linkseal.state(node) / "boot").exists()


@pytest.mark.userspace
def test_a_host_without_an_agent_has_the_commands_all_the_same(nodes: Nodes) -> None:
    """Of a node whose pod is gone, or that no API server lets anybody into."""
    with with_boot_unit(nodes) as (linkseal, node, host):
        state = linkseal.state(node)

        def run(*words: str) -> tuple[int, str]:
            process = run_on(node, command_of(state), "agent", *words)
            return process.wait(60), process.text()

        assert run("break-glass", "--reason", "no quorum") == (0, ANY)
        assert "no quorum" in (state / "break-glass.json").read_text()
        status, text = run("cleanup", "--yes", "--keep-directory")
        assert status == 1, text
        left = [line for line in text.splitlines() if line.startswith("left alone:")]
        assert [f"in which this command runs: remove {state} " in line for line in left] == [True], text
        assert "lsl" not in node.run("ip -br link")
        assert not list(host.units.rglob("*.service"))


@pytest.mark.userspace
def test_where_a_supervisor_runs_wireguard_go_its_sockets_are_where_pods_see_them(nodes: Nodes) -> None:
    with without_power(nodes, "overlay") as (linkseal, node):
        host = BootHost(linkseal.folder / "host")
        daemons = {"driver": "userspace", "daemons": "/run/linkseal/daemons/daemons.sock"}
        settings = linkseal.agent_settings(node, boot=host.settings, wireguard=daemons, runDirectory="/run/linkseal")
        linkseal.run_in(node, install, settings, settings.boot)
        host.boot(node, "sysinit.target")
        assert "lsl11.sock" in node.run("ls /run/linkseal/wireguard")
        assert node.run("ls /run/wireguard") == ""


@pytest.mark.kernel
def test_the_units_bring_back_the_kernels_own_tunnels(nodes: Nodes) -> None:
    """From the files on its disk alone; making them takes the lab kernel half a minute a node."""
    cluster = nodes(2, cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent", stage="enforce") as linkseal:
        host = BootHost(linkseal.folder / "host")
        linkseal.settings[a.name] = {"boot": host.settings}
        linkseal.start()
        linkseal.wait_sealed()
        linkseal.until(lambda: linkseal.status(a).boot.state == "installed", "a boot unit")
        linkseal.stop(a, signal.SIGKILL)
        linkseal.stop(b)
        lose_power(cluster, a)
        with cluster.capture() as wire:
            host.boot(a, "sysinit.target")
            cluster.new_nic(a)
            host.boot(a, "multi-user.target")
            a.pods[0].run(f"ping -c 20 -i 0.5 -W 1 {b.pods[0].address4}")
        assert wire.plaintext() == []
        assert "wireguard" in wire.kinds()
