# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Import of optional packages where they are used, with an error that names the install command."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from yolox_trt.core.errors import MissingDependencyError

#: Module name -> the command that installs it, or where it comes from.
INSTALL_COMMANDS: dict[str, str] = {
    "cupy": "pip install cupy-cuda12x (CUDA 12) or cupy-cuda13x (CUDA 13)",
    "tensorrt": "on Jetson it comes with JetPack (apt install python3-libnvinfer); on a PC: "
    "pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
    "onnx": "pip install onnx",
    "onnxruntime": "pip install onnxruntime (CPU) or onnxruntime-gpu (CUDA)",
    "torch": "pip install torch",
    "rclpy": "source /opt/ros/$ROS_DISTRO/setup.bash, or run `make venv` for the ROS 2 wheels",
    "vision_msgs": "apt install ros-$ROS_DISTRO-vision-msgs, or run `make venv`",
    **dict.fromkeys(
        ("autoware_internal_debug_msgs", "autoware_perception_msgs", "tier4_perception_msgs"),
        "source an Autoware workspace, or run `make venv AUTOWARE=1`",
    ),
    "foxglove_msgs": "apt install ros-$ROS_DISTRO-foxglove-msgs, or run `make venv AUTOWARE=1`",
    "ffmpeg_image_transport_msgs": "apt install ros-$ROS_DISTRO-ffmpeg-image-transport-msgs, or "
    "run `make venv AUTOWARE=1`",
    "av": "pip install av",
    "nvidia": "pip install nvidia-nvimgcodec-cu12[nvjpeg] (CUDA 12), -cu13 or -tegra-cu12",
    "PyNvVideoCodec": "pip install PyNvVideoCodec",
    "cv_bridge": "apt install ros-$ROS_DISTRO-cv-bridge",
    "rosbags": "pip install rosbags",
    "cv2": "pip install opencv-python-headless, or apt install python3-opencv",
    "yaml": "pip install PyYAML, or apt install python3-yaml",
    "pycocotools": "pip install pycocotools",
    "scipy": "pip install scipy",
    "matplotlib": "pip install matplotlib",
    "rich": "pip install rich",
    "edgefirst": "pip install edgefirst-tracker",
    "nvtx": "pip install nvtx",
    "rerun": "pip install rerun-sdk",
    "aiohttp": "pip install aiohttp, or apt install python3-aiohttp",
    "argcomplete": "pip install argcomplete, or apt install python3-argcomplete",
    "pyarrow": "pip install pyarrow",
    "duckdb": "pip install duckdb",
    "fsspec": "pip install fsspec",
    "upath": "pip install universal_pathlib",
    "ray": "pip install 'ray[data]'",
}


def is_installed(module: str) -> bool:
    """Tell whether a top-level module is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def require(module: str, *, purpose: str = "") -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted module name; its first part is looked up in INSTALL_COMMANDS.
        purpose: what it is needed for, named in the error.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: the module is missing or fails to import; the error names the
            install command (and the import's own failure, as for a CUDA library not found).
    """
    loaded = sys.modules.get(module)
    # Asked for each node of a graph; as with `import`, a module that another thread begins to
    # import is waited for.
    if loaded is not None and not getattr(
        getattr(loaded, "__spec__", None), "_initializing", False
    ):
        return loaded
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        # A module that is there may lack one of its own: that one is to be installed.
        lacking = (error.name or module).partition(".")[0]
        commands = (INSTALL_COMMANDS.get(name) for name in (lacking, top))
        needed = f" for {purpose}" if purpose else ""
        raise MissingDependencyError(
            f"Python module '{module}' could not be imported ({error})",
            expected=f"it to be installed{needed}",
            fix=next(filter(None, commands), f"pip install {lacking}"),
        ) from error


def missing_requirement(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """Turn an import's failure into the package's error, which names the install command.

    For what the package requires, such as OpenCV, which a ROS installation may lack all the same.

    Returns:
        The error; None where a module of the package itself is missing, which nobody can install.
    """
    missing = (error.name or "").partition(".")[0]
    if missing in ("", "yolox_trt"):
        return None
    return MissingDependencyError(
        f"Python module '{missing}' is missing",
        expected="the requirements of yolox_trt to be installed",
        fix=INSTALL_COMMANDS.get(missing, f"pip install {missing}"),
    )
