# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DetectionService: what the cameras are connected to from configure to cleanup."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rclpy.node import Node

from yolox_trt.compiler.int8.options import CalibrateOptions
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, MissingDependencyError
from yolox_trt.core.input_size import (
    AUTO_SIZE,
    OWN_SIZE,
    InputSize,
    Size,
    best_size,
    sized_name,
)
from yolox_trt.core.memory import return_freed_memory
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import parse_path
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.device_memory import return_freed_device_memory
from yolox_trt.detectors.factory import chosen_size, create_detector, own_spec
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.cache import EngineCache
from yolox_trt.engines.engine_file import is_engine_file
from yolox_trt.engines.trt_api import load_api
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.model_sizes import ModelSizes, OnChosen
from yolox_trt.ros.nodes.parameters import (
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)
from yolox_trt.ros.rclpy_versions import enclave


class DetectionService:
    """Each model on each device that may serve it, their executor, and who receives the images.

    Making one reads parameters only; `load` makes the detectors and the executor, in any
    thread.

    Args:
        node: the executor's node.
        parameters: those of the node `multi_camera`.
        cameras: the parameters of each camera by name.
        progress: is told how far engines are that are built.
        defer: calls what it is given, in the thread that the cameras' answers are wanted in.

    Attributes:
        executor: runs them, after `load`.
        ingest: the processes that receive images; None where this one does so itself.

    Raises:
        ConfigurationError: a device, a model file or a label file that does not exist as it is
            named.
    """

    def __init__(
        self,
        node: Node,
        parameters: ExecutorParameters,
        cameras: Mapping[str, CameraParameters],
        *,
        progress: BuildProgress,
        defer: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._progress = progress
        self._default = parameters.model or str(default_model())
        self._defer = defer
        self._cameras = dict(cameras)
        wanted = [each.model for each in cameras.values() if each.model]
        self._paths = _named_paths([self._default, *wanted])
        self._devices = _devices(parameters.devices, cameras)
        # 1 leaves the model's own batch as it is.
        batch = parameters.max_batch if parameters.max_batch > 1 else None
        labels = parameters.load_labels()
        self._options = replace(
            parameters.detector, max_batch=batch, labels=labels, calls=max(1, len(cameras))
        )
        self.executor: InferenceExecutor
        self.ingest: IngestPool | None = None
        self._sizes: ModelSizes
        #: Model -> its description at the size with which it was exported.
        self._own: dict[str, ModelSpec] = {}
        self._wishes: dict[tuple[str, InputSize | None], InputSize | None] = {}
        #: The executor's name -> model and size; None for its own.
        self._sized: dict[str, tuple[str, Size | None]] = {}
        #: The executor's name -> description.
        self._specs: dict[str, ModelSpec] = {}

    def find(self, parameters: CameraParameters) -> tuple[str, ModelSpec]:
        """Return the executor's name, and the description, of a camera's model.

        It is at the camera's size where that is loaded, else at another one, which `choose`
        replaces when the first image has come.

        Raises:
            ConfigurationError: no detector was made for it (the camera came after configure).
        """
        model = self._name_of(parameters.model)
        wanted = self._wanted(model, parameters.input_size)
        size = wanted if isinstance(wanted, tuple) else self._own[model].input_size
        name = self._sizes.name_of(model, size)
        return name, self._specs[name]

    def choose(self, parameters: CameraParameters, picture: Size, on_chosen: OnChosen) -> None:
        """Find the size for a camera's images, and load the model at it if need be.

        Args:
            parameters: the camera's.
            picture: (height, width) of its images, or of the part of them that is looked at.
            on_chosen: is called, by `defer`, with the executor's name of the model at that size.
        """
        model = self._name_of(parameters.model)
        size, own = self._wanted(model, parameters.input_size), self._own[model]
        if size == AUTO_SIZE:
            size = best_size(own.input_size, picture, own.size_step)
        elif not isinstance(size, tuple):
            size = own.input_size
        self._sizes.load(model, size, self._name(model, size), picture, on_chosen)

    def _wanted(self, model: str, asked: InputSize | None) -> InputSize | None:
        """Return what a camera's parameter `input_size` means for a model."""
        asked = asked or self._options.input_size
        key = model, asked
        if key not in self._wishes:
            options = replace(self._options, model=self._paths[model], input_size=asked)
            self._wishes[key] = chosen_size(options.located())
        return self._wishes[key]

    def _name(self, model: str, size: Size | None) -> str:
        """Return the executor's name of a model at a size; None for its own."""
        own = self._own.get(model)
        if own is not None and size == own.input_size:
            size = None
        name = sized_name(model, size)
        self._sized.setdefault(name, (model, size))
        return name

    def check(self, parameters: CameraParameters) -> None:
        """Refuse a camera that came after this was made, as far as that is known before `load`.

        Raises:
            ConfigurationError: its model or its device will not be loaded.
        """
        self._name_of(parameters.model)
        refuse_foreign_device(parameters.stream, self._devices)

    def load(self) -> DetectionService:
        """Make the detectors, which may take minutes with TensorRT, and the executor.

        Raises:
            YoloxTrtError: one cannot be made; those that were are closed.
        """
        parameters = self._parameters
        # The executor's alone: one that is replaced, or closed, shall leave no buffers behind.
        detectors: dict[tuple[Device, str], Detector] = {}
        try:
            devices: Iterable[Device | None] = self._devices
            for name in [name for model in self._paths for name in self._first_sizes(model)]:
                made = []
                for device in devices:
                    detector = self.create(device, name)
                    detectors[detector.device, name] = detector
                    made.append(detector.device)
                # Where `auto` chose a device for the first model, the others go there too.
                devices = made
                self._specs[name] = detector.spec
                self._own.setdefault(self._sized[name][0], detector.spec)
            self.executor = InferenceExecutor(
                detectors,
                policy=parameters.placement,
                options=parameters.scheduler,
                factory=self.create,
                max_batch=parameters.max_batch,
                contention=parameters.contention,
                profile=parameters.nvtx,
            )
        except BaseException:
            for detector in detectors.values():
                detector.close()
            raise
        self._sizes = ModelSizes(self.executor, self._create_further, self._defer)
        for name, spec in self._specs.items():
            self._sizes.add(self._sized[name][0], spec.input_size, name)
        return_freed_memory()  # the graphs that the models were read from
        return self

    def _first_sizes(self, model: str) -> list[str]:
        """Return the names of a model at the sizes that are known before an image has come."""
        wanted = [
            self._wanted(model, each.input_size)
            for each in self._cameras.values()
            if self._name_of(each.model) == model
        ] or [self._wanted(model, None)]
        sizes = {size if isinstance(size, tuple) else None for size in wanted}
        if sizes != {None} and not is_engine_file(self._paths[model]):
            self._own[model] = own_spec(replace(self._options, model=self._paths[model]).located())
        return sorted({self._name(model, size) for size in sizes})

    def _create_further(self, device: Device, name: str) -> Detector:
        detector = self.create(device, name)
        self._specs[name] = detector.spec
        return detector

    def create(self, device: Device | None, name: str) -> Detector:
        """Make a detector; anew, for a device that failed. The device None stands for `auto`."""
        model, size = self._sized.get(name, (name, None))
        with self._progress.watch(name, device) as on_progress:
            options = replace(
                self._options,
                model=self._paths[model],
                device=device,
                input_size=OWN_SIZE if size is None else size,
                on_progress=on_progress,
            )
            return create_detector(self._calibrated(options))

    def _calibrated(self, options: DetectorOptions) -> DetectorOptions:
        """Return the options with the calibration cache that `calibration_images` asks for.

        The images are run through the model once; that takes minutes where it is not cached.
        """
        images = self._parameters.calibration_images
        on_cpu = options.device is not None and not options.device.is_cuda
        if images is None or on_cpu or is_engine_file(Path(str(options.model))):
            return options
        try:
            version = load_api(options.build.flavour).version_text
        except MissingDependencyError:
            if options.device is not None:
                raise
            return options  # `auto` will not choose TensorRT
        calibrate = CalibrateOptions(
            algorithm=self._parameters.calibration_algorithm,
            dla=options.device is not None and options.device.kind == "dla",
        )

        from yolox_trt.compiler.int8.calibrate_once import calibrated_once  # it needs onnx

        def tell(what: str, done: float, total: float | None = None, note: str = "") -> None:
            if options.on_progress is not None:
                part = min(0.99, done / total) if total else 0.0  # 1 is the end of a build
                options.on_progress(part, f"{what}, image {done:.0f} of {total or 'many'}")

        cache = calibrated_once(
            Path(str(options.model)),
            images,
            calibrate,
            tensorrt=version,
            folder=EngineCache(options.engine_cache).folder / "calibration",
            on_progress=tell,
        )
        return replace(options, build=replace(options.build, calibration_cache=cache))

    def start_ingest(self) -> None:
        """Start the processes that receive images, if any are asked for."""
        if count := self._parameters.ingest_processes:
            self.ingest = IngestPool(
                count,
                self._node.get_name(),
                devices=self.executor.devices,
                namespace=self._node.get_namespace(),
                # They parse what anybody may send: they get fewer rights than this process has.
                enclave=f"{enclave().rstrip('/')}/ingest",
            )

    def stop(self) -> bool:
        """Stop the workers; the engines stay loaded. Return whether all have ended."""
        return self._report(self.executor.stop())

    def close(self) -> bool:
        """Release what was loaded; return whether every thread and process has ended by itself."""
        self._sizes.close()
        ended = self._report(self.executor.close())
        # Executor, workers and callbacks refer to one another; the next configure needs the memory.
        return_freed_memory()
        if ended:  # a thread that was left behind may hold up the GPU
            return_freed_device_memory(self.executor.devices)
        if self.ingest is None or self.ingest.close():
            return ended
        self._node.get_logger().error("an ingest process did not end by itself and was killed")
        return False

    def _report(self, ended: bool) -> bool:
        if not ended:
            self._node.get_logger().error("a device did not stop in 2 s; its thread is left behind")
        return ended

    def _name_of(self, model: str) -> str:
        path = _path_of(model or self._default)
        for name, known in self._paths.items():
            if known == path:
                return name
        fix = "deactivate, clean up and configure the node again to load another one"
        raise ConfigurationError.unknown("model", model, self._paths.values(), fix=fix)


def _named_paths(models: Iterable[str]) -> dict[str, str]:
    """Name each model by its file's stem, or by its path where two stems are equal.

    Raises:
        ConfigurationError: a model that is no file.
    """
    paths = dict.fromkeys(map(_path_of, models))
    names: dict[str, str] = {}
    for path in paths:
        check_model_file(path)
        stem = Path(path).stem
        names[path if stem in names else stem] = path
    return names


def _path_of(model: str) -> str:
    """Return the file of a model: itself, or that of a published model's name."""
    return str(DetectorOptions(model=parse_path(model)).located().model)


def check_model_file(path: str) -> None:
    """Raise ConfigurationError if a model is no file."""
    if not Path(_path_of(path)).is_file():
        raise ConfigurationError(
            f"model '{path}', which is no file",
            expected="an ONNX or engine file",
            fix=("set ", EXECUTOR_OPTIONS["model"]),
        )


def _devices(
    listed: tuple[Device | None, ...], cameras: Mapping[str, CameraParameters]
) -> tuple[Device | None, ...]:
    """Return the devices of the process; None stands for `auto`.

    Raises:
        ConfigurationError: a camera asks for a device that the process does not own.
    """
    if listed == (None,):
        # The cameras' own devices say what the process needs; those without one share them.
        asked = [each.stream.pinned_device for each in cameras.values()]
        return tuple(dict.fromkeys(each for each in asked if each is not None)) or listed
    for each in cameras.values():
        refuse_foreign_device(each.stream, listed)
    return tuple(dict.fromkeys(listed))


def refuse_foreign_device(stream: StreamConfig, devices: Collection[Device | None]) -> None:
    """Raise ConfigurationError for a device that the process does not own.

    Args:
        stream: asks for the device.
        devices: those of the process; None stands for one that is not known yet.
    """
    device = stream.pinned_device
    if device is not None and device not in devices and None not in devices:
        raise ConfigurationError(
            f"camera '{stream.id}' on device {device}",
            expected=f"auto or {', '.join(map(str, devices))}",
            fix=("add it to ", EXECUTOR_OPTIONS["devices"], " of multi_camera, and configure it"),
        )
