# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""libcudla: its functions, with errors by name."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import Any

from yolox_trt.core.errors import DeviceError, EngineError, Message, MissingDependencyError
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.engines.cudla.abi import CUDLA_FUNCTIONS, CUDLA_LATER_FUNCTIONS, Status

#: Library -> its file, and the JetPack package that brings it.
LIBRARIES: dict[str, tuple[str, str]] = {
    "cudla": (
        "libcudla.so.1",
        "apt install libcudla-12-6 (JetPack 6.1; the number is CUDA's: 11-4 with JetPack 5, 12-2 "
        "with 6.0), which the package nvidia-jetpack brings",
    ),
    "nvscibuf": ("libnvscibuf.so.1", "apt install nvidia-l4t-nvsci"),
    "nvscisync": ("libnvscisync.so.1", "apt install nvidia-l4t-nvsci"),
}

_OUT_OF_MEMORY = frozenset({Status.ErrorOutOfResources, Status.ErrorDlaErrNoMem})


def load_functions(
    library: str, functions: Mapping[str, tuple[type, ...]], *, purpose: str
) -> dict[str, Any]:
    """Return functions of a library by name, with the types of their arguments set.

    Args:
        library: key of LIBRARIES.
        functions: name -> types of its arguments.
        purpose: what they are needed for.

    Raises:
        MissingDependencyError: the library, or a function of it, is not there.
    """
    file, package = LIBRARIES[library]
    expected = f"a Jetson with a DLA (Xavier, Orin), for {purpose}"
    try:
        loaded = ctypes.CDLL(file)
    except OSError as error:
        raise MissingDependencyError(
            f"{file} cannot be loaded ({error})", expected=expected, fix=package
        ) from error
    found = {}
    for name, types in functions.items():
        try:
            found[name] = function = getattr(loaded, name)
        except AttributeError:
            raise MissingDependencyError(
                f"{file} without {name}", expected=expected, fix=package
            ) from None
        function.argtypes = types
    return found


def status_name(status: int) -> str:
    """Return NVIDIA's name of a cudlaStatus and its number."""
    if status in Status.__members__.values():
        return f"cudla{Status(status).name} ({status})"
    return f"cudlaStatus {status:#x}"


def cudla_fault(
    status: int, what: str, *, expected: Message = "", fix: Message = ""
) -> EngineError:
    """Return the fault that a cudlaStatus stands for.

    Args:
        status: anything but Success.
        what: what failed, as a short clause.
        expected: what was expected, where it is no matter of memory.
        fix: what mends it then.
    """
    found = f"{what}: {status_name(status)}"
    if status in _OUT_OF_MEMORY:
        return OutOfMemoryError(
            found, expected="free memory", fix="run fewer engines on this device"
        )
    return EngineError(found, expected=expected, fix=fix)


class Cudla:
    """cuDLA's functions.

    Attributes:
        version: of the library, such as "1.2.1".

    Raises:
        MissingDependencyError: see load_functions.
        EngineError: the library does not answer.
    """

    def __init__(self) -> None:
        self._functions = load_functions("cudla", CUDLA_FUNCTIONS, purpose="engine cudla")
        for name, types in CUDLA_LATER_FUNCTIONS.items():
            function = getattr(ctypes.CDLL(LIBRARIES["cudla"][0]), name, None)
            if function is not None:
                function.argtypes = types
                self._functions[name] = function
        number = ctypes.c_uint64()
        self.call("cudlaGetVersion", ctypes.byref(number), what="cuDLA's version")
        # 1000000 major + 1000 minor + patch (cudlaGetVersion)
        thousands, patch = divmod(number.value, 1000)
        self.version = ".".join(str(n) for n in (*divmod(thousands, 1000), patch))

    def __contains__(self, name: str) -> bool:
        """Whether this version has a function."""
        return name in self._functions

    def status(self, name: str, *arguments: Any) -> int:
        """Call a function and return its cudlaStatus; arguments are ctypes values."""
        return int(self._functions[name](*arguments))

    def call(self, name: str, *arguments: Any, what: str, fix: Message = "") -> None:
        """Call a function and raise the fault that it returns.

        Args:
            name: of the function.
            arguments: ctypes values.
            what: what it is called for, in the error.
            fix: what mends it.

        Raises:
            OutOfMemoryError, EngineError: see cudla_fault.
        """
        status = self.status(name, *arguments)
        if status != Status.Success:
            raise cudla_fault(status, f"{what} ({name})", fix=fix)

    @property
    def cores(self) -> int:
        """Number of DLA cores.

        Raises:
            EngineError: the DLA's driver does not answer.
        """
        count = ctypes.c_uint64()
        self.call(
            "cudlaDeviceGetCount",
            ctypes.byref(count),
            what="counting DLA cores",
            fix="check that /dev/nvhost-ctrl-nvdla0 is there and that the user is in the group "
            "video; in a container: docker run --runtime nvidia",
        )
        return count.value

    def check_core(self, core: int) -> None:
        """Refuse a core that this machine has not.

        Raises:
            DeviceError: see above.
            EngineError: see `cores`.
        """
        if core >= self.cores:
            raise DeviceError(
                f"device dla{core} with {self.cores} DLA cores, as cuDLA {self.version} counts",
                expected=f"dla0 to dla{self.cores - 1}" if self.cores else "a chip with a DLA",
                fix="use one of these, or a GPU (Orin Nano, Thor and PCs have no DLA)",
            )


@functools.cache
def load_cudla() -> Cudla:
    """Return cuDLA, loaded once.

    Raises:
        MissingDependencyError, EngineError: see Cudla.
    """
    return Cudla()
