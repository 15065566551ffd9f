"""pyroute2 without its package's `__init__`: nothing of it that we do not use, and all of it for who asks."""

import subprocess
import sys

HEAVY = ("sqlite3", "pyroute2.ndb.main", "pyroute2.netlink.nl80211", "pyroute2.ipvs")


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_an_agent_imports_of_pyroute2_what_it_uses() -> None:
    there = run(f"import sys, linkseal.tunnels.agent.main; print([m for m in {HEAVY} if m in sys.modules])")
    assert there == "[]"


def test_who_asks_the_package_for_a_name_gets_it() -> None:
    program = (
        "import linkseal.tunnels.host.pyroute as ours, pyroute2; from pyroute2 import NDB, config;"
        "print(pyroute2.IPRoute is ours.IPRoute, NDB.__name__, pyroute2.__version__ != '', config.__name__)"
    )
    assert run(program) == "True NDB True pyroute2.config"


def test_its_version_and_its_public_names_are_those_of_the_package() -> None:
    shown = "print(pyroute2.__version__, sorted(name for name in dir(pyroute2) if name[0].isupper()))"
    ours = run(f"import linkseal.tunnels.host.pyroute, pyroute2; {shown}")
    assert ours == run(f"import pyroute2; {shown}")


def test_a_name_that_it_has_not_is_an_error_as_ever() -> None:
    program = (
        "import linkseal.tunnels.host.pyroute, pyroute2\n"
        "try: pyroute2.no_such_thing\nexcept AttributeError as error: print(error)"
    )
    assert run(program) == "module 'pyroute2' has no attribute 'no_such_thing'"


def test_a_package_imported_before_is_left_as_it_is() -> None:
    program = "import pyroute2, linkseal.tunnels.host.pyroute as ours; print(pyroute2.IPRoute is ours.IPRoute)"
    assert run(program) == "True"
