"""The controller walks: to what the inventory says, at once where nobody waits, never down without being told twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError, Refused
from linkseal.tunnels.controller import stagefile
from linkseal.tunnels.controller.aims import PoolAim
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, standing
from linkseal.tunnels.stages import Position, Walk

from .walking import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.write("prefer")
    return made


def walked(site: Site) -> list[str]:
    return [change["to"] for change in json.loads((site.path / "ca/stage.json").read_text())["history"]]


def test_a_first_run_in_an_empty_cluster_ends_at_the_inventorys_stage(site: Site) -> None:
    site.controller().sign()
    assert site.stage == "prefer"
    assert walked(site) == ["prepare", "prefer"]
    assert (site.path / "ca/stage.json").stat().st_mode & 0o777 == 0o600


def test_with_nodes_each_step_waits_for_all_of_them(site: Site) -> None:
    site.write("off")
    controller = site.controller()
    controller.sign()
    site.report()
    site.write("prefer")
    controller.sign()
    assert site.stage == "prepare"
    site.report("n1", "n2")
    controller.sign()
    assert site.stage == "prepare", "n3 has not reported it"
    site.report()
    controller.sign()
    assert site.stage == "prefer"
    site.report()
    controller.sign()
    assert controller.stages.walk is None


def test_a_wish_to_go_further_takes_no_step_back(site: Site) -> None:
    """The step under way stays: taken back, what is encrypted would be plaintext for a moment."""
    site.write("off")
    controller = site.controller()
    controller.sign()
    site.report()
    site.write("prepare")
    controller.sign()
    site.write("prefer")
    assert site.stage == "prepare"
    controller.sign()
    assert site.stage == "prepare", "not taken back, and not passed over"
    site.report()
    controller.sign()
    assert site.stage == "prefer"
    assert len(controller.stages.ended) == 0
    site.write("prepare", lowerTo="prepare")
    controller.sign()
    assert site.stage == "prepare", "the other way the step under way is taken back at once"


def test_a_wish_for_where_the_cluster_is_ends_the_walk_there(site: Site) -> None:
    site.write("off")
    controller = site.controller()
    controller.sign()
    site.report()
    site.write("enforce")
    controller.sign()
    assert site.stage == "prepare"
    site.write("prepare", lowerTo="prepare")
    controller.sign()
    assert controller.stages.walk is not None, "the step under way has not been applied everywhere"
    site.report()
    controller.sign()
    assert (site.stage, controller.stages.walk) == ("prepare", None)
    site.report()
    controller.sign()
    assert site.stage == "prepare"


def test_an_old_inventory_does_not_lower_the_stage(site: Site) -> None:
    controller = site.controller()
    controller.sign()
    site.write("prepare")
    controller.sign()
    assert site.stage == "prefer"
    site.write("prepare", lowerTo="off")
    controller.sign()
    assert site.stage == "prefer", "it names another stage"
    site.write("prepare", lowerTo="prepare")
    controller.sign()
    assert site.stage == "prepare"


def test_what_was_lowered_by_hand_is_not_raised_again_by_a_restart(site: Site) -> None:
    controller = site.controller()
    controller.sign()
    controller.stages.start(Walk(Stage.OFF, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    assert site.stage == "off"
    again = site.controller()
    again.sign()
    assert site.stage == "off"
    assert walked(site) == ["prepare", "prefer", "prepare", "off"]


def test_a_restart_breaks_off_a_walk_that_somebody_looked_at_and_goes_on_with_another(site: Site) -> None:
    site.write("off")
    controller = site.controller()
    controller.sign()
    site.report()
    controller.stages.start(Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0))
    controller.sign()
    assert site.stage == "prepare"
    site.controller().sign()
    assert site.stage == "off"
    controller = site.controller()
    site.report()
    controller.stages.start(Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0, attached=False))
    controller.sign()
    again = site.controller()
    again.sign()
    assert (site.stage, again.stages.walk is not None) == ("prepare", True)


def test_a_lost_stage_file_takes_the_stage_from_the_policy(site: Site) -> None:
    site.controller().sign()
    serial = site.policy().serial
    (site.path / "ca/stage.json").unlink()
    site.controller().sign()
    assert (site.stage, site.policy().serial) == ("prefer", serial)


def test_a_damaged_stage_file_stops_the_controller(site: Site) -> None:
    site.controller().sign()
    (site.path / "ca/stage.json").write_text('{"stage": "what"}')
    with pytest.raises(ConfigError, match=r"stage\.json"):
        site.controller()


def test_a_directory_that_was_rolled_back_is_overtaken(site: Site) -> None:
    controller = site.controller()
    controller.sign()
    old = (site.path / "d/cluster.json").read_text()
    controller.stages.start(Walk(Stage.PREPARE, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    serial = site.policy().serial
    (site.path / "d/cluster.json").write_text(old)
    site.controller().sign()
    assert site.stage == "prepare"
    assert site.policy().serial > serial
    assert site.policy().after == serial, "the directory forgot it, the controller did not"


def test_a_policy_that_says_the_same_is_not_signed_again(site: Site) -> None:
    site.controller().sign()
    before = (site.path / "d/cluster.json").read_text()
    saved = (site.path / "ca/stage.json").stat().st_mtime_ns
    again = site.controller()
    for _ in range(3):
        again.sign()
    assert (site.path / "d/cluster.json").read_text() == before
    assert (site.path / "ca/stage.json").stat().st_mtime_ns == saved


def test_scope_changes_while_off_only(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    controller = site.controller()
    controller.sign()
    site.write("prefer", scope="transparent")
    controller.sign()
    assert site.policy().spec["scope"] == "overlay"
    conflict = controller.stages.conflict(controller.inventory.policy)
    assert conflict is not None
    assert "go to off first" in conflict
    controller.stages.start(Walk(Stage.OFF, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    assert site.stage == "off"
    controller.sign()  # now that all have applied it
    assert (site.stage, site.policy().spec["scope"]) == ("off", "transparent")
    assert controller.stages.conflict(controller.inventory.policy) is None


def test_so_do_ports_marks_and_tables(site: Site) -> None:
    """Agents would refuse them, and with them every other change of the policy: no walk would get on."""
    controller = site.controller()
    controller.sign()
    wanted = {"wireguard": {"port": 51900, "mtu": 1380}, "guard": {"table": "mine"}, "verify": {"interval": 60}}
    site.write("prefer", **wanted)
    controller.sign()
    kept = {"wireguard": {"port": 51820, "mtu": 1380}, "guard": {"table": "linkseal_guard"}}
    assert {name: site.policy().spec[name] for name in wanted} == {**wanted, **kept}
    conflict = controller.stages.conflict(controller.inventory.policy)
    assert conflict is not None
    assert "wireguard.port (51820 → 51900), guard.table (linkseal_guard → mine)" in conflict
    assert site.controller().stages.conflict(controller.inventory.policy) == conflict, "also after a restart"
    controller.stages.start(Walk(Stage.OFF, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    assert site.stage == "off"
    controller.sign()  # now that all have applied it
    assert {name: site.policy().spec[name] for name in wanted} == wanted
    assert controller.stages.conflict(controller.inventory.policy) is None


def test_what_an_earlier_version_kept_is_kept_and_the_rest_from_the_next_stage_off_on(site: Site) -> None:
    """It signed what agents refused: nobody knows by what they act, and to keep that would keep them apart for good."""
    site.controller().sign()
    file = site.path / "ca/stage.json"
    saved = json.loads(file.read_text())
    assert saved["pinned"].keys() == standing(Policy()).keys()
    saved["pinned"] = {"scope": "overlay", "protocol": "wireguard"}
    file.write_text(json.dumps(saved))
    site.write("prefer", scope="transparent", wireguard={"port": 51900})
    controller = site.controller()
    controller.sign()
    assert (site.policy().spec["scope"], site.policy().spec["wireguard"]["port"]) == ("overlay", 51900)
    site.write("prefer")
    controller.sign()
    assert "wireguard" not in site.policy().spec, "taken back"
    controller.stages.start(Walk(Stage.OFF, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    controller.sign()
    assert json.loads(file.read_text())["pinned"] == standing(Policy())


def test_what_does_not_go_with_what_stays_is_not_signed_and_walks_go_on(site: Site) -> None:
    """Agents would refuse it, also the stage off in it."""
    controller = site.controller()
    controller.sign()
    site.write("prefer", scope="transparent", guard={"passThrough": ["vxlan.calico"]})
    controller.sign()
    assert "guard" not in site.policy().spec
    assert "with what stays as it is until stage off" in controller._unfit
    controller = site.controller()
    controller.sign()
    assert "until stage off" in controller._unfit, "nor is it after a restart"
    controller.stages.start(Walk(Stage.OFF, up=False, who="me", began=0.0, since=0.0))
    controller.sign()
    assert site.stage == "off"
    controller.sign()
    assert (site.policy().spec["scope"], controller._unfit) == ("transparent", "")


def test_a_pool_in_the_inventory_is_refused(site: Site) -> None:
    site.write("off", pool={"stage": "prefer", "nodes": ["n1"]})
    with pytest.raises(ConfigError, match="enable --nodes"):
        site.controller()


def test_a_pool_is_signed_and_another_one_is_refused(site: Site) -> None:
    site.write("off")
    controller = site.controller()
    pool = frozenset({"n1", "n2"})
    controller.stages.start(Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0, nodes=pool))
    controller.sign()
    assert site.policy().spec["pool"] == {"stage": "prefer", "nodes": ["n1", "n2"]}
    assert site.stage == "off"
    other = Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0, nodes=frozenset({"n3"}))
    with pytest.raises(ConfigError, match="a pool already"):
        controller.stages.start(other)
    controller.stages.start(Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0))
    controller.sign()
    assert (site.stage, "pool" in site.policy().spec) == ("prefer", False)


def test_one_walk_at_a_time(site: Site) -> None:
    site.write("off")
    controller = site.controller()
    controller.sign()
    site.report()
    going = Walk(Stage.PREFER, up=True, who="me", began=0.0, since=0.0)
    controller.stages.start(going)
    with pytest.raises(Refused, match="me is just walking"):
        controller.stages.start(going)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    before = Position(Stage.PREPARE)
    walk = Walk(Stage.ENFORCE, True, "me", 1.0, 2.0, before, frozenset({"n1"}), 9.0, attached=False)  # noqa: FBT003
    seen, pool = (Stage.PREFER, None), PoolAim(Stage.ENFORCE, frozenset({"n1", "n2"}), Stage.ENFORCE)
    saved = stagefile.Saved(
        Position(Stage.PREFER), walk, seen, pool, "2026-11-02T10:00:00Z", "late", 7, {"wireguard.port": 51820}
    )
    saved = saved.moved(Position(Stage.PREPARE), 1e9, "me", "why")
    stagefile.save(stagefile.FileStore(tmp_path), saved)
    assert stagefile.load(stagefile.FileStore(tmp_path)) == saved
