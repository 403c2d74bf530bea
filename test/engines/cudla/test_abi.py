# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""cuDLA's structs and values, against the C compiler's view of the documented declarations."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from support.cudla import compile_c

from yolox_trt.engines.cudla import abi

#: NVIDIA's struct -> ours.
STRUCTS = {
    "cudlaModuleTensorDescriptor": abi.ModuleTensorDescriptor,
    "cudlaModuleAttribute": abi.ModuleAttribute,
    "cudlaDevAttribute": abi.DevAttribute,
    "cudlaExternalMemoryHandleDesc": abi.ExternalMemoryHandleDesc,
    "cudlaExternalSemaphoreHandleDesc": abi.ExternalSemaphoreHandleDesc,
    "CudlaFence": abi.Fence,
    "cudlaWaitEvents": abi.WaitEvents,
    "cudlaSignalEvents": abi.SignalEvents,
    "cudlaTask": abi.Task,
    "NvSciSyncFence": abi.NvSciSyncFence,
    "NvSciBufAttrKeyValuePair": abi.NvSciAttribute,
    "NvSciSyncAttrKeyValuePair": abi.NvSciAttribute,
}
#: Prefix of NVIDIA's names -> our enum of the rest.
ENUMS = {
    "cudla": abi.Status,
    "CUDLA_NVSCISYNC_ATTR_": abi.NvSciSyncAttributes,
    "CUDLA_DATA_FORMAT_": abi.DataFormat,
    "CUDLA_DATA_TYPE_": abi.DataType,
    "CUDLA_": (
        *(abi.Mode, abi.ModuleAttributeType, abi.DevAttributeType, abi.FenceType),
        *(abi.SubmissionFlags, abi.AccessPermissionFlags, abi.ModuleLoadFlags),
    ),
}
VALUES = {
    "NvSciBufType_RawBuffer": abi.BUF_TYPE_RAW,
    "NvSciBufGeneralAttrKey_Types": abi.BUF_TYPES,
    "NvSciBufGeneralAttrKey_NeedCpuAccess": abi.BUF_NEED_CPU_ACCESS,
    "NvSciBufGeneralAttrKey_RequiredPerm": abi.BUF_REQUIRED_PERM,
    "NvSciBufRawBufferAttrKey_Size": abi.BUF_RAW_SIZE,
    "NvSciBufRawBufferAttrKey_Align": abi.BUF_RAW_ALIGN,
    "NvSciBufAccessPerm_ReadWrite": abi.BUF_READ_WRITE,
    "NvSciSyncAttrKey_NeedCpuAccess": abi.SYNC_NEED_CPU_ACCESS,
    "NvSciSyncAttrKey_RequiredPerm": abi.SYNC_REQUIRED_PERM,
    "NvSciSyncAccessPerm_WaitOnly": abi.SYNC_WAIT_ONLY,
}
NVIDIA = [
    p for p in (Path("/usr/local/cuda/include"), Path("/usr/include")) if (p / "cudla.h").is_file()
]


def value_of(name: str) -> int:
    """Return our value of one of NVIDIA's names."""
    if name in VALUES:
        return VALUES[name]
    prefix = next(prefix for prefix in ENUMS if name.startswith(prefix))
    enums = ENUMS[prefix]
    members = {
        name: member
        for enum in (enums if isinstance(enums, tuple) else (enums,))
        for name, member in enum.__members__.items()
    }
    return members[name.removeprefix(prefix)]


@pytest.mark.parametrize("headers", [None, *NVIDIA], ids=str)
def test_layouts_and_values(headers: Path | None) -> None:
    options = [] if headers is None else ["-DNVIDIA_HEADERS", f"-I{headers}"]
    printed = subprocess.run([compile_c("layout.c", *options)], capture_output=True, text=True)
    structs, values = {}, {}
    for line in printed.stdout.splitlines():
        if "=" in line:
            name, _, value = line.partition("=")
            values[name] = int(value)
        else:
            name, *numbers = line.split()
            structs[name] = [int(n) for n in numbers]
    ours: dict[str, list[int]] = {}
    for name, struct in STRUCTS.items():
        if name not in structs:
            assert headers is not None and name.startswith("NvSci")
            continue
        ours[name] = [ctypes.sizeof(struct)]
        # NvSciSync calls its key attrKey.
        fields = [(f"{name}.{field}", getattr(struct, field)) for field, *_ in struct._fields_]
        if name == "NvSciSyncAttrKeyValuePair":
            fields[0] = (f"{name}.attrKey", fields[0][1])
        ours |= {field: [place.offset, place.size] for field, place in fields}
    assert ours == structs
    assert {name: value_of(name) for name in values} == values
    if headers is None:  # and the other way round: nothing of ours was left out
        enums = [
            e for each in ENUMS.values() for e in (each if isinstance(each, tuple) else (each,))
        ]
        assert len(values) == sum(len(e.__members__) for e in enums) + len(VALUES)


def test_no_function_has_more_arguments_than_are_documented() -> None:
    """As counted in the cuDLA API reference (modules.html, "cuDLA API")."""
    counts = {
        "cudlaCreateDevice": 3, "cudlaDestroyDevice": 1, "cudlaDeviceGetAttribute": 3,
        "cudlaDeviceGetCount": 1, "cudlaGetLastError": 1, "cudlaGetNvSciSyncAttributes": 2,
        "cudlaGetVersion": 1, "cudlaImportExternalMemory": 4, "cudlaImportExternalSemaphore": 4,
        "cudlaMemRegister": 5, "cudlaMemUnregister": 2, "cudlaModuleGetAttributes": 3,
        "cudlaModuleLoadFromMemory": 5, "cudlaModuleUnload": 2, "cudlaSetTaskTimeoutInMs": 2,
        "cudlaSubmitTask": 5,
    }  # fmt: skip
    declared = abi.CUDLA_FUNCTIONS | abi.CUDLA_LATER_FUNCTIONS
    assert {name: len(types) for name, types in declared.items()} == counts
    assert set(abi.NVSCIBUF_FUNCTIONS | abi.NVSCISYNC_FUNCTIONS) > abi.NVSCI_VOID
