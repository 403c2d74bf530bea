# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Build of the ament_python package; requirements and extras stand in setup.cfg."""

import re
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup

NAME = "yolox_trt"
HERE = Path(__file__).resolve().parent
VERSION = re.search(r"<version>(.+?)</version>", (HERE / "package.xml").read_text()).group(1)

# Files that ROS and the commands find under the installation prefix: <prefix>/share/yolox_trt/...
SHARED_FOLDERS = ("launch", "config", "models")


class DistributionWithData(Distribution):
    """setuptools' editable wheels carry data_files only of a distribution that answers has_data."""

    def has_data(self):
        """Tell whether there are data_files."""
        return bool(self.data_files)


def shared_files(folder):
    """List a folder of the repository as data_files entries, its subfolders kept."""
    entries = {}
    for path in sorted((HERE / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(HERE)
            entries.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return sorted(entries.items())


data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
    (f"share/{NAME}", ["package.xml"]),
]
# colcon.pkg names it: a sourced workspace has the commands in its PATH, not for `ros2 run` alone.
data_files.append((f"share/{NAME}/hook", ["resource/path.dsv"]))
for shared in SHARED_FOLDERS:
    data_files += shared_files(shared)

# colcon puts the entry points into <prefix>/lib/yolox_trt itself, as setup.cfg says. pip ignores
# that setting and puts them into <prefix>/bin, so a wheel carries forwarders for `ros2 run`.
if {"bdist_wheel", "editable_wheel"} & set(sys.argv):
    forwarders = sorted(str(p.relative_to(HERE)) for p in (HERE / "libexec").iterdir())
    data_files.append((f"lib/{NAME}", forwarders))

setup(
    distclass=DistributionWithData,
    name=NAME,
    version=VERSION,
    description="Multi-camera YOLOX detection for ROS 2 on GPU, DLA and CPU",
    author="The yolox_trt authors",
    author_email="yolox-trt@users.noreply.github.com",
    maintainer="The yolox_trt authors",
    maintainer_email="yolox-trt@users.noreply.github.com",
    url="https://github.com/yolox-trt/yolox_trt",
    license="Apache-2.0",
    python_requires=">=3.10",  # from setup.cfg it would be an object that colcon cannot read
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: ["py.typed"],
        f"{NAME}.kernels": ["*.cu", "*.cuh", "cuda/*"],
        f"{NAME}.ros.dashboard": ["static/*"],
    },
    data_files=data_files,
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"{NAME} = {NAME}.cli.__main__:main",
            f"multi_camera = {NAME}.ros.nodes.__main__:main",
        ],
    },
)
