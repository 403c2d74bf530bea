# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile in each ROS distribution, malloc, and what multi_camera says of them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.ros import Client, RosProcess

from yolox_trt.core import memory
from yolox_trt.ros import middleware

OLD, NEW = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OLD, NEW, "ROS_DISTRO", "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [("humble", OLD), ("jazzy", OLD), ("kilted", NEW), ("rolling", NEW), ("", NEW)],
)
def test_the_profile_goes_into_the_variable_that_is_read(
    distribution: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    assert f"{variable}={middleware.profile_path()}" in middleware.transport_warning()
    settings = middleware.transport_settings()
    assert {name for name in settings if "PROFILES" in name} == {variable}
    assert settings[variable] == str(middleware.profile_path())
    monkeypatch.setenv(variable, settings[variable])
    assert "512 kB" not in middleware.transport_warning()
    assert not any("PROFILES" in name for name in middleware.transport_settings())


@pytest.mark.parametrize("distribution", ["humble", "jazzy"])
def test_a_profile_under_a_name_that_is_not_read_is_named(
    distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    monkeypatch.setenv(NEW, "/own.xml")
    warning = middleware.transport_warning()
    assert f"{NEW} is set, but Fast DDS of ROS 2 {distribution} does not read it" in warning
    assert f"{OLD}=" in warning
    # The launch file hands the user's own profile on under the right name.
    assert middleware.transport_settings()[OLD] == "/own.xml"


def test_kilted_reads_the_former_name_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    monkeypatch.setenv(OLD, "/own.xml")
    assert "512 kB" not in middleware.transport_warning()
    assert not any("PROFILES" in name for name in middleware.transport_settings())


def test_other_middleware_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert middleware.transport_warning() == ""


@pytest.mark.ros
@pytest.mark.timeout(180, method="signal")
def test_says_so_when_it_runs_without_the_profile(
    start_cameras: Callable[..., RosProcess], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_cameras(
        {"multi_camera": {"cameras": ["front"]}}, FASTDDS_DEFAULT_PROFILES_FILE=""
    )
    assert "512 kB shared-memory segment" in process.output
    assert str(middleware.profile_path()) in process.output


def test_malloc_settings_are_in_force_without_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in memory.MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert middleware.transport_settings().keys() >= memory.MALLOC_SETTINGS.keys()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if memory.apply_malloc_settings() and memory.heap_keeps_large_blocks() else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_profile_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/own.xml")
    assert middleware.transport_environment()["FASTDDS_DEFAULT_PROFILES_FILE"] == "/own.xml"
