# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""config/sros2_policy.xml allows what the nodes do, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from support.ros import REPOSITORY, Client, RosProcess

Grants = dict[str, set[tuple[str, str]]]
#: What only some configurations do, or some versions of ROS 2 and of its packages.
NOT_ALWAYS = (
    "/objects",
    "/mask",
    "/color_mask",
    "/image_raw",
    "/image_raw/compressed",
    "/get_type_description",
)


def allowed() -> Grants:
    """Return (kind, name) of what the policy allows, by enclave and node."""
    grants: Grants = {}
    root = ElementTree.parse(REPOSITORY / "config/sros2_policy.xml").getroot()
    for enclave in root.iter("enclave"):
        for profile in enclave.iter("profile"):
            path = profile.attrib["ns"] + profile.attrib["node"]
            own = grants.setdefault(f"{enclave.attrib['path']} {path}", set())
            for rules in profile:
                (kind, qualifier) = rules.attrib.popitem()
                assert qualifier == "ALLOW"
                own |= {(kind, (rule.text or "").replace("~", path)) for rule in rules}
    return grants


def used(client: Client) -> Grants:
    """Return (kind, name) of what the nodes do, by enclave and node."""
    node, grants = client.node, {}
    for name, namespace, enclave in node.get_node_names_and_namespaces_with_enclaves():
        if name != node.get_name():
            grants[f"{enclave} {namespace}{name}"] = {
                (kind, topic)
                for kind, look in (
                    ("publish", node.get_publisher_names_and_types_by_node),
                    ("subscribe", node.get_subscriber_names_and_types_by_node),
                    ("reply", node.get_service_names_and_types_by_node),
                    ("request", node.get_client_names_and_types_by_node),
                )
                for topic, _ in look(name, namespace)
            }
    return grants


@pytest.mark.ros
@pytest.mark.timeout(180, method="signal")
def test_the_policy_is_what_the_nodes_of_the_shipped_configuration_do(
    start: Callable[..., RosProcess], client: Client, small_model: Path, tmp_path: Path
) -> None:
    sections = yaml.safe_load((REPOSITORY / "config/multi_camera.yaml").read_text())
    own = {"model": str(small_model), "devices": ["cpu"], "ingest_processes": 2}
    sections["/**/multi_camera"]["ros__parameters"] |= own
    sections["/**"]["ros__parameters"]["on_demand"] = False
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump(sections))
    arguments = ["--ros-args", "--params-file", str(file), "--enclave", "/multi_camera"]
    process = start(["-m", "yolox_trt.ros.nodes.multi_camera", *arguments])
    process.wait_for("active:")
    policy = allowed()
    images = {f"/{name}/image_raw" for name in ("front", "rear", "left", "right")}
    missing: set[tuple[str, ...]] = {("discovery", "not complete")}
    subscribed: set[str] = set()
    end = time.monotonic() + 30.0
    # The ingest processes subscribe to the images in their own time.
    while (missing or not subscribed >= images) and time.monotonic() < end:
        client.spin_for(0.2)
        present = used(client)
        rules_of_all = set().union(*present.values())
        subscribed = {topic for kind, topic in rules_of_all if kind == "subscribe"}
        missing = {
            (node, *rule)
            for node, rules in policy.items()
            for rule in rules - present.get(node, set())
            if not rule[1].endswith(NOT_ALWAYS)
        }
    assert missing == set(), "the policy allows what no node does"
    assert present.keys() == policy.keys()
    more = {(node, *rule) for node in policy for rule in present[node] - policy[node]}
    assert more == set(), "allow it in config/sros2_policy.xml"
    assert subscribed == images
