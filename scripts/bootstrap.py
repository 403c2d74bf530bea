#!/usr/bin/env python3
# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Make the virtual environment that `make demo` and `make test` run in. Standard library only.

Four steps, each done only when what it depends on has changed since it was last done (a stamp in
the environment holds the hash), so that a second run installs nothing and touches no network:

1. the virtual environment;
2. the requirements of setup.cfg, from PyPI (ROS 2 Kilted wheels among them);
3. the message packages of interfaces/, built as wheels, kept in the environment;
4. this package, editable, with its data files.

Where a ROS distribution is sourced (ROS_DISTRO and AMENT_PREFIX_PATH are set), the environment
sees its Python packages instead, and no ROS wheel is installed and no message package is built.
"""

from __future__ import annotations

import argparse
import configparser
import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "yolox_trt"
MINIMUM_PYTHON = (3, 10)

#: Extras of setup.cfg that each profile installs, beside the base requirements.
PROFILES = {
    "demo": ("evaluation", "demo", "dashboard"),
    "test": ("evaluation", "demo", "dashboard", "batch", "video", "rtx", "docs", "test"),
}
#: Extras for machines that take ROS 2 from PyPI.
WHEEL_EXTRAS = ("ros", "interfaces")

#: Message packages that every environment needs, and those that single outputs need.
INTERFACES = ("vision_msgs", "composition_interfaces")
OPTIONAL_INTERFACES = (
    *("autoware_internal_debug_msgs", "autoware_perception_msgs"),
    "tier4_perception_msgs",
    "foxglove_msgs",
    "ffmpeg_image_transport_msgs",
)
#: Those that are built against another package of interfaces/, which is installed before.
LATER_INTERFACES = {"tier4_perception_msgs"}

#: Requirements that a distribution's own package serves as well: name -> module that proves it.
SYSTEM_PACKAGES = {"opencv-python-headless": "cv2", "PyYAML": "yaml", "psutil": "psutil"}
#: The distributions' compiled Python modules (cv_bridge, rclpy's messages) are built for NumPy 1.
SYSTEM_CONSTRAINTS = ("numpy<2",)

#: What torch itself needs, fetched from the index before a local torch wheel is installed.
TORCH_DEPENDENCIES = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec")


#: pip's settings -> uv's variables.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}

#: A line of site-packages/*.pth. The wheels do not set AMENT_PREFIX_PATH, and a sourced
#: distribution does not know of the environment; a colcon workspace that is sourced stays in front.
AMENT_PREFIX_PTH = (
    "import os, sys; p = os.environ.get('AMENT_PREFIX_PATH', '').split(':'); "
    "os.environ['AMENT_PREFIX_PATH'] = ':'.join(filter(None, dict.fromkeys([*p, sys.prefix])))\n"
)


class BootstrapError(Exception):
    """Something is missing; the message says what and names the command that mends it."""


def run(
    command: list[str], *, quiet_failure: bool = False, env: Mapping[str, str] | None = None
) -> int:
    """Run a command, its output kept for the error message.

    Args:
        command: program and arguments.
        quiet_failure: return the status of a failure.
        env: variables beside those of child_environment.

    Returns:
        The exit status, non-zero only with quiet_failure.

    Raises:
        BootstrapError: the command failed, with the last 40 lines that it wrote.
    """
    process = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**child_environment(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode and not quiet_failure:
        tail = "\n".join(process.stdout.splitlines()[-40:])
        raise BootstrapError(f"{tail}\n\nfailed with {process.returncode}: {' '.join(command)}")
    return process.returncode


def child_environment() -> dict[str, str]:
    """Environment for children: the ROS wheels' own marker would keep a foreign library path."""
    env = dict(os.environ)
    if env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
        env.pop("LD_LIBRARY_PATH", None)
    # Most modules of the requirements are never imported: Python compiles the others when they are.
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_NO_COMPILE="1")
    return env


def uv_settings(listing: str) -> dict[str, str]:
    """Turn what `pip config list` prints into uv's variables: uv does not read pip's files.

    A company's own index must not be passed over. As with pip, the best version of all indexes is
    taken, and the environment comes before the files.
    """
    settings = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        variable = UV_VARIABLES.get(key.rpartition(".")[2])
        if variable and (variable not in settings or key.startswith(":env:")):
            settings[variable] = value.strip("'\"")
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **settings}


def digest(*parts: str | Path) -> str:
    """Hash texts, and files or folders by name and content."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            state.update(part.encode() + b"\0")
            continue
        files = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" in file.parts:
                continue
            state.update(str(file.relative_to(REPOSITORY)).encode() + b"\0")
            state.update(file.read_bytes() + b"\0")
    return state.hexdigest()[:24]


def read_requirements() -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Read setup.cfg: base requirements, extras, and those to install without dependencies."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(REPOSITORY / "setup.cfg")

    def lines(section: str, key: str) -> list[str]:
        return [line.strip() for line in config[section][key].splitlines() if line.strip()]

    extras = {key: lines("options.extras_require", key) for key in config["options.extras_require"]}
    return (
        lines("options", "install_requires"),
        extras,
        lines("bootstrap", "test_without_dependencies"),
    )


def sourced_distribution() -> str | None:
    """Name the ROS distribution whose setup file has been sourced, if any."""
    if os.environ.get("ROS_DISTRO") and os.environ.get("AMENT_PREFIX_PATH"):
        return os.environ["ROS_DISTRO"]
    return None


class Environment:
    """The virtual environment, its stamps and its wheels."""

    def __init__(self, folder: Path, distribution: str | None) -> None:
        self.folder = folder
        self.distribution = distribution
        self.python = folder / "bin" / "python"
        self.state = folder / ".bootstrap"

    def pip(self, *arguments: str, quiet_failure: bool = False) -> int:
        """Run this environment's pip."""
        return run([str(self.python), "-m", "pip", *arguments], quiet_failure=quiet_failure)

    @functools.cached_property
    def uv_environment(self) -> dict[str, str] | None:
        """The variables that uv takes pip's settings from; None where uv cannot be had.

        uv does not count what a distribution has installed: an environment that sees one is pip's.
        """
        if self.distribution or self.pip("install", "--quiet", "uv", quiet_failure=True):
            return None
        listing = [str(self.python), "-m", "pip", "config", "list"]
        settings = subprocess.run(
            listing, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        return uv_settings(settings)

    def install(self, *arguments: str, quiet_failure: bool = False) -> int:
        """Install with uv, where uv can be had, else with pip.

        uv takes a fifth of pip's time and a tenth of its processor time.
        """
        if self.uv_environment is not None:
            command = ["-m", "uv", "pip", "install", "--python", str(self.python), *arguments]
            if not run([str(self.python), *command], quiet_failure=True, env=self.uv_environment):
                return 0
            say("uv could not install them; pip tries")
        return self.pip("install", *arguments, quiet_failure=quiet_failure)

    def imports(self, module: str) -> bool:
        """Tell whether this environment's Python can import a module."""
        return run([str(self.python), "-c", f"import {module}"], quiet_failure=True) == 0

    def query(self, expression: str) -> str:
        """Evaluate a Python expression in the environment and return it as text."""
        code = f"import sys, sysconfig; print({expression})"
        return subprocess.run(
            [str(self.python), "-c", code],
            env=child_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()

    def is_done(self, step: str, key: str) -> bool:
        """Tell whether a step was finished with this key."""
        stamp = self.state / step
        return stamp.is_file() and stamp.read_text() == key

    def mark_done(self, step: str, key: str) -> None:
        """Write a step's stamp, whole or not at all."""
        self.state.mkdir(exist_ok=True)
        temporary = self.state / f"{step}.{os.getpid()}"
        temporary.write_text(key)
        temporary.replace(self.state / step)


def say(text: str) -> None:
    """Write one line of progress."""
    print(f"bootstrap: {text}", flush=True)


class Step:
    """Prints what is being done, and how long it took."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        say(f"{self.text} ...")
        self.started = time.monotonic()

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            say(f"{self.text}: done in {time.monotonic() - self.started:.0f} s")


def check_prerequisites(distribution: str | None) -> None:
    """Raise a BootstrapError that names every missing prerequisite and its apt command."""
    missing = []
    if sys.version_info < MINIMUM_PYTHON:
        found = platform.python_version()
        raise BootstrapError(
            f"Python {found} was found, 3.10 or later is needed. "
            "Name another one: make PYTHON=python3.12 ..."
        )
    if not all(importlib.util.find_spec(m) for m in ("venv", "ensurepip")):
        missing.append(("the Python module venv", "python3-venv"))
    if distribution is None:
        if platform.machine() != "x86_64":
            raise BootstrapError(
                f"this machine is {platform.machine()}, and PyPI carries ROS 2 wheels for x86-64 "
                "only. Install a ROS 2 distribution (Humble, Jazzy or Kilted) with vision_msgs and "
                "source it first: . /opt/ros/$ROS_DISTRO/setup.sh"
            )
        compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
        if not any(c and shutil.which(c.split()[0]) for c in compilers):
            missing.append(("a C++ compiler", "build-essential"))
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            missing.append(("Python's C headers (Python.h)", "python3-dev"))
    if missing:
        what = ", ".join(name for name, _ in missing)
        packages = " ".join(package for _, package in missing)
        raise BootstrapError(f"missing: {what}. Install with: sudo apt install {packages}")


def make_environment(env: Environment) -> None:
    """Step 1. An environment of another kind (Python version, distribution) is made anew."""
    key = digest(f"{sys.version_info[:2]}", sys.base_prefix, env.distribution or "wheels")
    if env.python.exists() and env.is_done("environment", key):
        return
    # An environment without a stamp was made by hand, or its making was interrupted: it is taken as
    # it is when its Python is the one that runs.
    adopted = (
        env.python.exists()
        and not (env.state / "environment").exists()
        and env.distribution is None
        and env.query("sys.version_info[:2]") == str(sys.version_info[:2])
    )
    with Step(f"making {env.folder.name} with Python {platform.python_version()}"):
        if not adopted:
            shutil.rmtree(env.folder, ignore_errors=True)
            command = [sys.executable, "-m", "venv"]
            if env.distribution:
                command.append("--system-site-packages")
            run([*command, str(env.folder)])
        # setuptools builds this package; Python 3.12 and later bring none. colcon-core asks for one
        # below 80.
        env.install("--quiet", "setuptools>=64,<80", "wheel")
    env.mark_done("environment", key)


def requirement_name(requirement: str) -> str:
    """Give the distribution name that a requirement begins with."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match.group(0) if match else requirement


def named_requirements(env: Environment, profile: str) -> list[str]:
    """List everything of setup.cfg that a profile takes here."""
    base, extras, _ = read_requirements()
    names = PROFILES[profile] + (() if env.distribution else WHEEL_EXTRAS)
    return base + [requirement for name in names for requirement in extras[name]]


def missing_requirements(env: Environment, profile: str) -> list[str]:
    """Drop from named_requirements what a sourced distribution serves, and keep to its NumPy."""
    requirements = named_requirements(env, profile)
    if env.distribution is None:
        return requirements
    present = {name for name, module in SYSTEM_PACKAGES.items() if env.imports(module)}
    return [r for r in requirements if requirement_name(r) not in present] + [*SYSTEM_CONSTRAINTS]


def install_requirements(env: Environment, profile: str) -> None:
    """Step 2."""
    bare = read_requirements()[2]
    keys = {
        "demo": digest(*named_requirements(env, "demo")),
        "test": digest(*named_requirements(env, "test"), *bare),
    }
    if env.is_done(f"requirements-{profile}", keys[profile]):
        return
    with Step("installing the requirements from the package index"):
        listing = env.state / f"requirements-{profile}.txt"
        listing.write_text("\n".join(missing_requirements(env, profile)) + "\n")
        env.install("-r", str(listing))
        for requirement in bare if profile == "test" else ():
            if env.install("--no-deps", requirement, quiet_failure=True):
                say(f"could not install '{requirement}': the tests that need it skip")
    # The test profile holds everything that the demo profile holds.
    for satisfied in ("demo", "test") if profile == "test" else ("demo",):
        env.mark_done(f"requirements-{satisfied}", keys[satisfied])


def find_local_wheel(name: str) -> Path | None:
    """Find a wheel in the local folders that PIP_FIND_LINKS names."""
    for place in os.environ.get("PIP_FIND_LINKS", "").split():
        folder = Path(place.removeprefix("file://"))
        if folder.is_dir():
            wheels = sorted(folder.glob(f"{name}-*.whl"))
            if wheels:
                return wheels[-1]
    return None


def install_local_torch(env: Environment) -> None:
    """Install torch for the training tests where a local folder carries its wheel.

    PyPI's own torch brings several GB of CUDA libraries, which no test needs: it is never fetched.
    """
    wheel = find_local_wheel("torch")
    if wheel is None or env.distribution:
        return
    key = digest(wheel.name)
    if env.is_done("torch", key):
        return
    with Step(f"installing {wheel.name} from {wheel.parent}"):
        env.install(*TORCH_DEPENDENCIES)
        if env.install("--no-index", "--no-deps", str(wheel), quiet_failure=True):
            say("that wheel is not for this Python: the training tests skip")
    env.mark_done("torch", key)


def build_interfaces(env: Environment, packages: tuple[str, ...]) -> None:
    """Step 3. Build the packages that do not need each other at the same time."""
    if env.distribution:
        if not env.imports("vision_msgs.msg"):
            raise BootstrapError(
                f"ROS {env.distribution} is sourced, but its vision_msgs cannot be imported. "
                f"Install with: sudo apt install ros-{env.distribution}-vision-msgs"
            )
        return
    shared = REPOSITORY / "interfaces" / "cmake"
    keys = {package: digest(REPOSITORY / "interfaces" / package, shared) for package in packages}
    changed = [package for package in packages if not env.is_done(package, keys[package])]
    for later in (False, True):
        group = [package for package in changed if (package in LATER_INTERFACES) == later]
        if not group:
            continue
        with Step(f"building {', '.join(group)}"), ThreadPoolExecutor() as pool:
            wheels = list(pool.map(lambda package: build_wheel(env, package, keys[package]), group))
            env.pip("install", "--no-index", "--no-deps", "--force-reinstall", *wheels)
        for package in group:
            env.mark_done(package, keys[package])


def build_wheel(env: Environment, package: str, key: str) -> str:
    """Give a message package's wheel, built once for its content and kept beside the stamps."""
    folder = env.state / "wheels" / f"{package}-{key}"
    if not list(folder.glob("*.whl")):
        env.pip(
            "wheel", "--no-deps", "--no-build-isolation", "--no-index",
            "--wheel-dir", str(folder), str(REPOSITORY / "interfaces" / package),
        )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return str(wheel)


def install_package(env: Environment) -> None:
    """Step 4. Editable: code is read where it lies, data files are copied when they change."""
    names = ("setup.py", "setup.cfg", "package.xml", "pyproject.toml")
    folders = ("launch", "config", "models", "libexec", "resource")
    parts = [REPOSITORY / name for name in (*names, *folders)]
    key = digest(AMENT_PREFIX_PTH, *(part for part in parts if part.exists()))
    if env.is_done("package", key):
        return
    with Step(f"installing {NAME}"):
        env.pip(
            "install", "--no-index", "--no-deps", "--no-build-isolation", "--editable",
            str(REPOSITORY),
        )  # fmt: skip
        purelib = Path(env.query("sysconfig.get_path('purelib')"))
        (purelib / f"{NAME}_ament_prefix.pth").write_text(AMENT_PREFIX_PTH)
    env.mark_done("package", key)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", choices=sorted(PROFILES), default="demo")
    parser.add_argument("--autoware", action="store_true", help="build Autoware's messages too")
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv")
    return parser.parse_args()


def main() -> int:
    """Run the steps; one line on failure."""
    arguments = parse_arguments()
    distribution = sourced_distribution()
    env = Environment(arguments.venv.resolve(), distribution)
    autoware = arguments.autoware or arguments.profile == "test"
    try:
        check_prerequisites(distribution)
        with (REPOSITORY / "setup.cfg").open() as lock:
            # Two runs at a time would write one environment.
            fcntl.flock(lock, fcntl.LOCK_EX)
            make_environment(env)
            install_requirements(env, arguments.profile)
            if arguments.profile == "test":
                install_local_torch(env)
            build_interfaces(env, INTERFACES + (OPTIONAL_INTERFACES if autoware else ()))
            install_package(env)
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
