"""What the chart says twice is the same in both places; what the API server makes of it is in tests/kube."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from linkseal.tunnels.clusterobject import ClusterStatus, status_object
from linkseal.tunnels.directory import kubedocs
from linkseal.tunnels.policy import PolicySpec
from linkseal.tunnels.settings import AgentConfig

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "linkseal"
DOCS = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
TEMPLATES = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "templates").iterdir()}


def script(name: str) -> ModuleType:
    if str(ROOT / "charts") not in sys.path:
        sys.path.insert(0, str(ROOT / "charts"))  # as where it is run: one of them imports another
    spec = importlib.util.spec_from_file_location(f"charts_{name}", ROOT / "charts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def crds() -> ModuleType:
    return script("crds")


def schema_of(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def test_the_crds_are_those_of_the_models(crds: ModuleType) -> None:
    there = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "crds").iterdir()}
    assert there == crds.files(), "run: python charts/crds.py"


def test_the_schema_of_the_values_is_that_of_the_settings() -> None:
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == script("values").text(), (
        "run: python charts/values.py"
    )


def test_every_field_of_the_policy_is_in_the_object(crds: ModuleType) -> None:
    aliases = {field.alias for field in PolicySpec.model_fields.values()}
    assert set(schema_of(crds.cluster_encryption())["spec"]["properties"]) == aliases | {
        "optOut",
        "ca",
        "stepTimeout",
        "askedAt",
    }


def test_every_field_of_a_report_is_in_the_object(crds: ModuleType) -> None:
    """Rather than pruned: what stands in the models and not in the schema would be lost without a word."""

    def fields(schema: dict[str, Any], path: str = "") -> set[str]:
        found: set[str] = set()
        for name, of in schema.get("properties", {}).items():
            found |= {f"{path}.{name}"} | fields(of, f"{path}.{name}") | fields(of.get("items", {}), f"{path}.{name}")
        return found

    shown = fields(schema_of(crds.node_encryption())["status"])
    assert {".pairs.rxBytes", ".guard.counts.packets", ".generations.fingerprint", ".verified.ciphertext"} <= shown
    cluster = fields(schema_of(crds.cluster_encryption())["status"])
    assert {f".{name}" for name in status_object(ClusterStatus())} == {one for one in cluster if one.count(".") == 1}


def test_numbers_that_may_be_text_may_be_both(crds: ModuleType) -> None:
    spec = schema_of(crds.cluster_encryption())["spec"]["properties"]
    either = {"x-kubernetes-int-or-string": True, "maxLength": crds.MAX_NUMBER}
    assert spec["routing"]["properties"]["fwmark"] == spec["verify"]["properties"]["interval"] == either


def test_every_value_has_a_place_in_the_schema() -> None:
    """Also those that are off by default; Helm itself checks the values that are given."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def unknown(value: object, of: dict[str, Any], path: str) -> list[str]:
        if not isinstance(value, dict) or "properties" not in of:
            return []
        return [
            found
            for name, inner in value.items()
            for found in (
                unknown(inner, of["properties"][name], f"{path}.{name}")
                if name in of["properties"]
                else [f"{path}.{name}"]
            )
        ]

    assert unknown(values, schema, "") == []
    assert set(schema["properties"]) - set(values) == {"global"}


def test_the_agents_file_can_say_all_but_what_the_chart_says() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    taken = set(schema["properties"]["agent"]["properties"]["config"]["properties"])
    aliases = {field.alias or name for name, field in AgentConfig.model_fields.items()}
    assert aliases - taken == {
        *("apiVersion", "kind", "directory", "metrics", "boot"),
        *("node", "uid", "stateDirectory", "runDirectory"),
        "endpoints",  # of one node
    }


def test_its_version_is_the_product_s() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_no_image_names_a_registry() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    images = [
        values["image"]["repository"],
        *re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE),
    ]
    assert [image for image in images if "/" in image and re.search(r"[.:]", image.partition("/")[0])] == []


def test_the_policies_speak_of_the_agents_annotations() -> None:
    text = "".join(text for name, text in TEMPLATES.items() if name.startswith("admission"))
    ours = {kubedocs.ANNOUNCEMENT, kubedocs.SIGNATURE, kubedocs.CERTIFICATE, kubedocs.GRANT}
    assert set(re.findall(r"'(linkseal\.io/[a-z]+)'", text)) == ours | {"linkseal.io/node"}


def test_every_policy_and_value_is_documented() -> None:
    text = "".join(TEMPLATES.values())
    for name in re.findall(r"kind: ValidatingAdmissionPolicy\nmetadata:\n  name: ([a-z-]+)", text):
        assert f"`{name}`" in DOCS
    for name in (
        "agent.config",
        "agent.bootUnit",
        "agent.metrics",
        "controller.nodeAffinity",
        "clusterEncryption.create",
        "uninstall.clean",
    ):
        assert f"`{name}`" in DOCS


def test_the_image_is_made_of_what_is_there() -> None:
    copied = re.findall(r"^COPY ([^-].*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = {file for line in copied for file in line.split()}
    assert all((ROOT / file).exists() for file in files)
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert kept == files
