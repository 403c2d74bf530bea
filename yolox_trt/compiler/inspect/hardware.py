# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Hardware: peak figures of the devices a model may run on."""

from __future__ import annotations

from dataclasses import dataclass

_TIER4 = "TIER IV, DNN inference optimisation for edge AI (2023)"
_DLA_SW = "NVIDIA/Deep-Learning-Accelerator-SW, README (sparse figures, halved)"
_SHEET = "NVIDIA Jetson AGX Orin and AGX Xavier data sheets"


@dataclass(frozen=True)
class Hardware:
    """One engine of a chip.

    Attributes:
        name: as users name it.
        int8_tops: dense INT8 tera-operations a second (a multiply-add counts two).
        fp16_tflops: dense FP16 likewise, None where no source gives it.
        bandwidth: of the memory that all engines of the chip share, in GB/s.
        source: where the INT8 figure comes from.
        fp16_source: where the FP16 figure comes from.
    """

    name: str
    int8_tops: float
    fp16_tflops: float | None
    bandwidth: float
    source: str
    fp16_source: str = ""

    def peak(self, precision: str) -> float | None:
        """Return the peak in TOPS of a precision, None where no source gives it."""
        return self.int8_tops if precision == "int8" else self.fp16_tflops

    def efficiency(self, gflops: float, time_ms: float, precision: str) -> float | None:
        """Return GFLOPs / time / TOPS in percent, as TIER IV defines it.

        Args:
            gflops: of one run.
            time_ms: of one run, in ms.
            precision: "int8" or "fp16".
        """
        peak = self.peak(precision)
        if peak is None or time_ms <= 0:
            return None
        return gflops / time_ms / peak * 100.0


#: Engines by name. A DLA entry is one core; each chip has two.
HARDWARE: dict[str, Hardware] = {
    h.name: h
    for h in (
        Hardware(
            "orin-gpu", 85.0, 42.5, 204.8, _TIER4, "half of INT8: Ampere's Tensor Cores, " + _SHEET
        ),
        Hardware(
            "orin-dla",
            26.25,
            26.25 / 15,
            204.8,
            f"{_TIER4}; {_DLA_SW}",
            "INT8 is about 15 times FP16: NVIDIA, Deploying YOLOv5 on Orin with cuDLA",
        ),
        Hardware(
            "xavier-gpu", 22.0, 11.0, 136.5, _TIER4, "half of INT8: Volta's Tensor Cores, " + _SHEET
        ),
        Hardware("xavier-dla", 5.0, 2.5, 136.5, _TIER4, "half of INT8, " + _SHEET),
    )
}


@dataclass(frozen=True)
class PublishedRun:
    """A run that the sources report, to compare with.

    Attributes:
        model: name in the source.
        height: of the input, as the source writes sizes (width x height): 960x608 is 608 high.
        width: of the input.
        gflops: of one run.
        parameters: in millions.
        device: key of HARDWARE.
        time_ms: INT8, batch 1.
        efficiency: in percent, as printed there; None where it is not legible.
    """

    model: str
    height: int
    width: int
    gflops: float
    parameters: float
    device: str
    time_ms: float
    efficiency: float | None


#: TIER IV, DNN inference optimisation for edge AI (2023): TensorRT 8.5.2, MAXN, INT8.
PUBLISHED_RUNS: tuple[PublishedRun, ...] = (
    PublishedRun("YOLOX-Tiny", 608, 960, 21.5, 5.02, "xavier-gpu", 6.74, 14.49),
    PublishedRun("YOLOX-M", 608, 960, 104.5, 25.24, "xavier-gpu", 15.26, 31.13),
    PublishedRun("YOLOX-S-opt", 608, 960, 46.8, 10.1, "xavier-gpu", 5.36, 39.66),
    PublishedRun("YOLOX-S-plus-opt", 960, 960, 102.9, 14.8, "xavier-gpu", 10.05, 46.53),
    PublishedRun("YOLOX-S-plus-opt", 960, 960, 102.9, 14.8, "xavier-dla", 31.17, 66.01),
    PublishedRun("YOLOX-S-plus-opt", 960, 1280, 136.2, 14.8, "xavier-gpu", 13.91, 44.51),
    PublishedRun("YOLOX-S-plus-opt", 960, 1280, 136.2, 14.8, "xavier-dla", 40.65, 67.01),
    # Slide on consolidation: four inferences on the GPU and two on each DLA core, all at once.
    PublishedRun("YOLOX-S-plus-opt", 960, 960, 102.9, 14.8, "orin-gpu", 4.1, None),
    PublishedRun("YOLOX-S-plus-opt", 960, 960, 102.9, 14.8, "orin-dla", 11.69, None),
)
