"""Fixtures of the tests on a real control plane; what it is made of is in tests/ground (controlplane, kubeapi, …).

    pytestmark = pytest.mark.kube

    def test_a_node_is_there(plane, kube):
        create_node(kube, "a")                                 # gone after the test: it was made through `kube`
        assert plane.admin.get("/api/v1/nodes/a")

`plane` is one for all tests of a session: a test that stops its API server starts it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ground import controlbuild
from ground.charts import chart_installed
from ground.controlplane import ControlPlane
from ground.kernel import BuildError
from ground.kubeapi import Recorder
from ground.net import Cluster


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the control plane before the tests that need it: in one of them the minutes would count as its own."""
    if session.config.option.collectonly or not any(item.get_closest_marker("kube") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            controlbuild.build()
    except BuildError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver: what a test needs them for is never skipped."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def kube(plane: ControlPlane) -> Iterator[Recorder]:
    """The admin's requests; all that a test makes through it is deleted after the test."""
    with plane.recorder() as recorder:
        yield recorder
        recorder.remove()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes, with plain routes between their pods; with `plane` it has nothing to do."""
    made = Cluster(3, cni="host-gw")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def chart(plane: ControlPlane) -> Iterator[None]:
    """The chart is installed while a module's tests run (ground.charts); where its CRDs and policies would be in the
    way of others they are gone."""
    with chart_installed(plane):
        yield
