# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""scripts/bootstrap.py: prerequisites, a sourced distribution, a second run that does nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

UNREACHABLE = "http://127.0.0.1:9/simple"


@pytest.fixture
def bootstrap(repository: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap", repository / "scripts/bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_second_run_installs_nothing_and_needs_no_network(repository: Path) -> None:
    """In the environment that these tests run in, with an index that cannot be reached."""
    state = Path(sys.prefix) / ".bootstrap"
    if not state.is_dir():
        pytest.skip("this environment was not made by `make venv`")
    profile = "test" if (state / "requirements-test").is_file() else "demo"
    base = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")

    def run_again() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [base, "scripts/bootstrap.py", "--profile", profile, "--venv", sys.prefix],
            cwd=repository,
            env={
                **os.environ,
                "PIP_INDEX_URL": UNREACHABLE,
                "PIP_EXTRA_INDEX_URL": UNREACHABLE,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_RETRIES": "0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    # A launch file or the like may have been edited since `make venv`: that is no matter for the
    # network either.
    first = run_again()
    assert first.returncode == 0, first.stdout
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    start = time.monotonic()
    subprocess.run([base, "-c", ""], check=True)
    bare = time.monotonic() - start
    start = time.monotonic()
    second = run_again()
    seconds = time.monotonic() - start
    assert second.returncode == 0, second.stdout
    assert second.stdout == "", "a step ran again"
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before
    assert seconds < max(10.0, 20.0 * bare), "slow even for what Python takes to start here"


def test_a_missing_compiler_is_named_with_its_apt_command(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    with pytest.raises(bootstrap.BootstrapError, match=r"sudo apt install .*build-essential"):
        bootstrap.check_prerequisites(None)


@pytest.mark.parametrize("distribution", [None, "jazzy"])
def test_a_missing_venv_module_is_named_with_its_apt_command(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, distribution: str | None
) -> None:
    """Debian splits ensurepip out of Python: the module venv is there, and fails."""
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(
        bootstrap.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name
    )
    with pytest.raises(bootstrap.BootstrapError, match=r"sudo apt install .*python3-venv"):
        bootstrap.check_prerequisites(distribution)


def test_missing_python_headers_are_named_with_their_apt_command(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(bootstrap.BootstrapError, match=r"Python\.h.*apt install .*python3-dev"):
        bootstrap.check_prerequisites(None)


def test_a_machine_without_wheels_is_told_to_source_a_distribution(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "aarch64")
    with pytest.raises(bootstrap.BootstrapError, match=r"aarch64.*x86-64 only.*setup\.sh"):
        bootstrap.check_prerequisites(None)
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: name)
    bootstrap.check_prerequisites("humble")


def test_a_sourced_distribution_replaces_the_ros_wheels(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/humble")
    distribution = bootstrap.sourced_distribution()
    assert distribution == "humble"
    env = bootstrap.Environment(tmp_path, distribution)
    monkeypatch.setattr(env, "imports", lambda module: module == "cv2")
    chosen = bootstrap.missing_requirements(env, "test")
    names = {bootstrap.requirement_name(requirement) for requirement in chosen}
    assert not any(name.startswith("ros-kilted") for name in names)
    assert "opencv-python-headless" not in names
    assert {"onnxruntime", "rosbags", "PyYAML", "pytest"} <= names
    assert "numpy<2" in chosen
    with pytest.raises(bootstrap.BootstrapError, match="apt install ros-humble-vision-msgs"):
        bootstrap.build_interfaces(env, bootstrap.INTERFACES)


def test_without_a_distribution_the_wheels_are_chosen(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert bootstrap.sourced_distribution() is None
    env = bootstrap.Environment(tmp_path, None)
    for profile in bootstrap.PROFILES:
        names = set(map(bootstrap.requirement_name, bootstrap.missing_requirements(env, profile)))
        assert {"ros-kilted-rclpy", "opencv-python-headless", "scikit-build-core"} <= names
    demo, test = (bootstrap.named_requirements(env, profile) for profile in ("demo", "test"))
    assert set(demo) < set(test), "a test environment must serve the demo as well"


def test_a_message_package_is_built_after_those_that_it_needs(
    bootstrap: ModuleType, repository: Path
) -> None:
    packages = {*bootstrap.INTERFACES, *bootstrap.OPTIONAL_INTERFACES}
    for package in packages:
        text = (repository / "interfaces" / package / "CMakeLists.txt").read_text()
        needs = packages & set(re.findall(r"find_package\((\w+)", text))
        assert bool(needs) == (package in bootstrap.LATER_INTERFACES)
        assert not needs & bootstrap.LATER_INTERFACES


def test_no_environment_pulls_torch_from_the_index(bootstrap: ModuleType, tmp_path: Path) -> None:
    """It brings several GB of CUDA libraries."""
    env = bootstrap.Environment(tmp_path, None)
    for profile in bootstrap.PROFILES:
        names = set(map(bootstrap.requirement_name, bootstrap.named_requirements(env, profile)))
        assert not names & {"torch", "torchvision", "cupy-cuda12x", "cupy-cuda13x", "tensorrt"}


def test_a_local_torch_wheel_is_found(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"https://example.invalid/links {tmp_path}")
    assert bootstrap.find_local_wheel("torch") is None
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    assert bootstrap.find_local_wheel("torch") == wheel


def test_the_stamp_follows_content_and_name(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bootstrap, "REPOSITORY", tmp_path)
    folder = tmp_path / "interfaces"
    folder.mkdir()
    (folder / "A.msg").write_text("int32 a\n")
    first = bootstrap.digest(folder)
    assert bootstrap.digest(folder) == first
    (folder / "A.msg").write_text("int64 a\n")
    second = bootstrap.digest(folder)
    (folder / "A.msg").rename(folder / "B.msg")
    assert len({first, second, bootstrap.digest(folder)}) == 3


def test_a_failed_command_shows_what_it_wrote(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.BootstrapError, match=r"(?s)the reason.*failed with 3"):
        bootstrap.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])


def test_uv_follows_the_settings_of_pip(bootstrap: ModuleType) -> None:
    """A company's own index is asked, and the environment comes before the files, as with pip."""
    settings = bootstrap.uv_settings(
        "global.index-url='https://pypi.example.com/simple'\n"
        "global.extra-index-url='file:///opt/one file:///opt/two'\n"
        ":env:.cert='/etc/ours.crt'\n"
        "global.cert='/etc/theirs.crt'\n"
        "global.no-such-setting='1'\n"
    )
    assert settings == {
        "UV_DEFAULT_INDEX": "https://pypi.example.com/simple",
        "UV_INDEX": "file:///opt/one file:///opt/two",
        "SSL_CERT_FILE": "/etc/ours.crt",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


@pytest.mark.slow
def test_where_uv_fails_pip_tries_and_tells_why(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uv")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, UNREACHABLE)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    env = bootstrap.Environment(Path(sys.prefix), None)
    with pytest.raises(bootstrap.BootstrapError, match="No matching distribution found"):
        env.install("a-package-that-nobody-has==1.0")
    assert "uv could not" in capsys.readouterr().out
