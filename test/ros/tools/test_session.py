# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The domain that demo and bench keep to themselves, in each ROS distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

from support.ros import REPOSITORY, free_domain

from yolox_trt.ros.middleware import PROFILE_VARIABLES, profile_path
from yolox_trt.ros.tools.session import private_domain

PARTICIPANT = (
    "import rclpy; rclpy.init(); n = rclpy.create_node('x'); print(1, flush=True); input()"
)


@pytest.mark.parametrize("distribution", ["jazzy", "kilted", ""])
def test_discovery_stays_on_this_machine(distribution: str) -> None:
    given = {"ROS_DISTRO": distribution, "ROS_DOMAIN_ID": "7"}
    expected = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    assert private_domain(given) == expected
    own = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    assert private_domain(given | own) == expected | own
    assert private_domain(given, inherited=False)["ROS_DOMAIN_ID"] != "7"


def test_humble_without_the_shipped_profile() -> None:
    given = {"ROS_DISTRO": "humble", PROFILE_VARIABLES[1]: "/own.xml"}
    assert private_domain(given)["ROS_LOCALHOST_ONLY"] == "1"
    assert private_domain({**given, "ROS_LOCALHOST_ONLY": "0"})["ROS_LOCALHOST_ONLY"] == "0"


def test_humble_gets_a_profile_whose_sockets_are_local() -> None:
    """With this machine's ROS, which reads the same profile, and nothing else set."""
    domain = free_domain()
    given = {"ROS_DISTRO": "humble", PROFILE_VARIABLES[1]: str(profile_path())}
    settings = private_domain({**given, "ROS_DOMAIN_ID": str(domain)})
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROS_", "FAST"))}
    process = subprocess.Popen(
        [sys.executable, "-c", PARTICIPANT],
        env=inherited | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    bound = [line.split()[1].split(":") for line in lines]
    ports = range(7400 + 250 * domain, 7650 + 250 * domain)
    hosts = {host for host, port in bound if int(port, 16) in ports}
    process.communicate(b"\n")
    # In the kernel's byte order: 127.0.0.1, and the group of DDS's discovery.
    assert hosts == {"0100007F", "0100FFEF"}
