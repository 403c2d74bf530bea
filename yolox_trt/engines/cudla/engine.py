# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudlaEngine: what the modes of cuDLA share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from yolox_trt.core.device import Device
from yolox_trt.engines.cudla.abi import Mode
from yolox_trt.engines.cudla.library import Cudla, load_cudla
from yolox_trt.engines.cudla.loadable import Loadable
from yolox_trt.engines.cudla.module import DlaModule
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.file_lock import FileLock


class CudlaEngine(Engine):
    """A loadable on a DLA core. A task runs its static batch, whatever the batch of the run.

    Args:
        file: the loadable, its sidecar read and its checksum checked.
        device: the DLA core; None for that of the file.
        library: cuDLA; None for the one installed.
        lease: the file's lease of the cache (CacheEntry), released when the engine is closed.

    Raises:
        EngineError: the loadable does not fit this machine or its sidecar, or cuDLA fails.
        OutOfMemoryError: see core.faults.
        DeviceError: there is no such core.
        MissingDependencyError: libcudla, or what the mode needs besides, is missing.
    """

    mode: ClassVar[Mode]

    def __init__(
        self,
        file: EngineFile,
        *,
        device: Device | None = None,
        library: Cudla | None = None,
        lease: FileLock | None = None,
    ) -> None:
        self._lease = lease
        self._module: DlaModule | None = None
        loadable = Loadable(file)
        self.device = device or Device.parse(file.fingerprint.device)
        loadable.check_device(self.device)
        self.file = file.without_data()
        self.spec = loadable.spec
        self._layouts, self._scales = loadable.layouts, loadable.scales
        self.max_batch = self._layouts[self.spec.input_name].shape[0]
        library = library or load_cudla()
        try:
            module = self._module = DlaModule(library, self.device.index, self.mode, loadable)
            self._allocate(library, module)
        except Exception:
            self.close()
            raise

    def raise_late_fault(self) -> None:
        """Raise what the last task that has ended failed with.

        Raises:
            EngineError, OutOfMemoryError: see core.faults.
        """
        if self._module is not None:
            self._module.raise_failure()

    def close(self) -> None:
        """Unload the module, and release the file. No task may be under way."""
        module, self._module = self._module, None
        if module is not None:
            module.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    @abstractmethod
    def _allocate(self, library: Cudla, module: DlaModule) -> None:
        """Make the buffers and the task; set `input` and `outputs`."""

    def _checked(self, batch: int) -> DlaModule:
        """Return the module for a run of a batch.

        Raises:
            EngineError: the batch is out of range, or the engine is closed.
        """
        self.check_batch(batch, is_open=self._module is not None)
        assert self._module is not None
        return self._module
