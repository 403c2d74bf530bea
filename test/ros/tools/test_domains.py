# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS domain for each process, and none that somebody uses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from yolox_trt.batch.regression import RegressJob
from yolox_trt.ros.tools.domains import DOMAINS, free_domains, own_domain
from yolox_trt.ros.tools.options import RegressOptions

ASK = "from yolox_trt.ros.tools.domains import own_domain as own; print(own(), own(), flush=True)"


def test_a_domain_whose_ports_are_bound_is_not_free() -> None:
    domain = free_domains()[-1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7400 + 250 * domain + 10))
        assert domain not in free_domains()
    assert set(free_domains()) <= set(DOMAINS)


def test_processes_side_by_side_have_different_domains() -> None:
    """All but three are kept by somebody else."""
    left, names = [], []
    try:
        for domain in DOMAINS:
            name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                name.bind(f"\0yolox_trt/ros_domain/{domain}")
            except OSError:  # by another process of this machine
                name.close()
                continue
            names.append(name)
            left.append(domain)
        left = left[-3:]
        for name in names[-3:]:
            name.close()
        command = [sys.executable, "-c", f"{ASK}; input()"]
        asked = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        found = []
        for process in asked:
            assert process.stdout is not None
            found.append([int(word) for word in process.stdout.readline().split()])
        assert sorted(found) == [[domain, domain] for domain in left]
        for process in asked:
            process.communicate("\n", timeout=60)
        last = subprocess.run(
            [sys.executable, "-c", ASK], capture_output=True, text=True, check=True
        )
        assert int(last.stdout.split()[0]) in left, "the end of a process gives its domain back"
    finally:
        for name in names:
            name.close()


def test_a_worker_takes_its_own_domain_whatever_the_shell_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The workers of one machine would all have inherited the shell's."""
    for given in ("0", None):
        if given is None:
            monkeypatch.delenv("ROS_DOMAIN_ID")
        else:
            monkeypatch.setenv("ROS_DOMAIN_ID", given)
        with RegressJob(RegressOptions(bag=Path("day"))).open():
            assert os.environ["ROS_DOMAIN_ID"] == str(own_domain())
        assert os.environ.get("ROS_DOMAIN_ID") == given
