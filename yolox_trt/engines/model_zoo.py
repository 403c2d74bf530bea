# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Published models by name: where they are, their licences and digests.

Those of other projects than YOLOX are not copied here, and come under their own licences: AGPL-3.0
asks that what is built with them is open too.

The digests of the YOLOX release, and of those of other projects, are not published. Those below are
the ones that independent projects have pinned for the same addresses (at least two for each file,
one for yolox-darknet53); Autoware's are in its own download role (ansible/roles/artifacts). A file
whose digest nobody has published is trusted when it first comes, and checked against that ever
after.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.files import cache_folder
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.engines.download import download

_YOLOX = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
_AUTOWARE = "https://awf.ml.dev.web.auto/perception/models"


@dataclass(frozen=True)
class ZooFile:
    """One file of a model.

    Attributes:
        url: where it is.
        sha256: its digest in hexadecimal, "" where nobody has published one.
    """

    url: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """File name, the last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ZooModel:
    """One model.

    Attributes:
        name: by which it is fetched.
        summary: what it is, in a few words.
        onnx: the network.
        labels: its class names; None for COCO's 80.
        others: further files (calibration tables).
        licence: as its publisher states it.
    """

    name: str
    summary: str
    onnx: ZooFile
    labels: ZooFile | None = None
    others: tuple[ZooFile, ...] = ()
    licence: str = "Apache-2.0"

    @property
    def files(self) -> tuple[ZooFile, ...]:
        """All files, the network first."""
        return (self.onnx, *((self.labels,) if self.labels else ()), *self.others)


def _official(name: str, file: str, summary: str, sha256: str) -> ZooModel:
    return ZooModel(name, summary, ZooFile(f"{_YOLOX}/{file}", sha256))


_T4_LABELS = ZooFile(
    f"{_AUTOWARE}/label.txt", "3540a365bfd6d8afb1b5d8df4ec47f82cb984760d3270c9b41dbbb3422d09a0c"
)
_TLR_LABELS = ZooFile(
    f"{_AUTOWARE}/tlr_yolox_s/v3/tlr_labels.txt",
    "a2a91f5fe9c2e68e3e3647a272bb9bb25cd07631a1990a3fb15efddce7691131",
)


def _autoware(
    name: str, summary: str, file: str, sha256: str, labels: ZooFile, table_sha256: str = ""
) -> ZooModel:
    """Describe a model of Autoware; a calibration table lies beside the network."""
    stem = f"{_AUTOWARE}/{file}"
    table = ZooFile(f"{stem}.EntropyV2-calibration.table", table_sha256)
    return ZooModel(
        f"autoware-{name}",
        f"Autoware: {summary}",
        ZooFile(f"{stem}.onnx", sha256),
        labels,
        (table,) if table_sha256 else (),
        licence="see Autoware",
    )


def _traffic_light(batch: int, sha256: str) -> ZooModel:
    return _autoware(
        f"tlr-yolox-s-batch{batch}",
        f"traffic lights in a crop, batch {batch}",
        f"tlr_yolox_s/v3/tlr_car_ped_yolox_s_batch_{batch}",
        sha256,
        _TLR_LABELS,
    )


_ULTRALYTICS = "https://github.com/ultralytics"
_AGPL = "AGPL-3.0 (Ultralytics)"


def _ultralytics(name: str, url: str, summary: str, sha256: str) -> ZooModel:
    file = ZooFile(f"{_ULTRALYTICS}/{url}/{name}.onnx", sha256)
    return ZooModel(name, summary, file, licence=_AGPL)


MODELS: dict[str, ZooModel] = {
    model.name: model
    for model in (
        _official(
            "yolox-nano",
            "yolox_nano.onnx",
            "YOLOX-Nano, COCO, 416x416, 25.8 AP",
            "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        ),
        _official(
            "yolox-tiny",
            "yolox_tiny.onnx",
            "YOLOX-Tiny, COCO, 416x416, 32.8 AP",
            "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        ),
        _official(
            "yolox-s",
            "yolox_s.onnx",
            "YOLOX-S, COCO, 640x640, 40.5 AP",
            "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        ),
        _official(
            "yolox-m",
            "yolox_m.onnx",
            "YOLOX-M, COCO, 640x640, 46.9 AP",
            "21ff6cfdeb53b013bac2249599e55f00bff3cfdfdab37ed7a4620818c1d15b3f",
        ),
        _official(
            "yolox-l",
            "yolox_l.onnx",
            "YOLOX-L, COCO, 640x640, 49.7 AP",
            "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        ),
        _official(
            "yolox-x",
            "yolox_x.onnx",
            "YOLOX-X, COCO, 640x640, 51.1 AP",
            "c892d7aaf1c4746d8a4d675bec669a4db4f434b4ee1efb654bc9b353379c7c55",
        ),
        _official(
            "yolox-darknet53",
            "yolox_darknet.onnx",
            "YOLOX-Darknet53, COCO, 640x640, 47.7 AP",
            "10ccc527877c6ee5596929c4b3eee5ad6a78038647260bc9abdfce9a0df55d05",
        ),
        _autoware(
            "yolox-tiny",
            "YOLOX-Tiny",
            "yolox-tiny",
            "471a665f4243e654dff62578394e508db22ee29fe65d9e389dfc3b0f2dee1255",
            _T4_LABELS,
        ),
        _autoware(
            "yolox-s-plus-opt",
            "YOLOX-S-plus-opt of TIER IV",
            "yolox-sPlus-opt",
            "36b0832177b01e6b278e00c7369f1de71e616c36261cbae50f0753d41289da01",
            _T4_LABELS,
            "b9e9d7da33342262ccaea4469b4d02b8abb32b6d7bf737f9e0883fece1b8f580",
        ),
        _autoware(
            "yolox-s-plus-t4-960",
            "YOLOX-S-plus of TIER IV, 960x960",
            "object_detection_yolox_s/v1/yolox-sPlus-T4-960x960-pseudo-finetune",
            "f5054e8a890c3be86dc1b4b89a5a36fb2279d4f6110b0159e793be062641bf65",
            _T4_LABELS,
            "cc378d327db5616b0b3a4d077bf37100c25a50ecd22d2b542f54098da100f34c",
        ),
        _autoware(
            "yolox-car-ped-tl-960",
            "cars, pedestrians, traffic lights, 960x960",
            "tl_detector_yolox_s/v1/yolox_s_car_ped_tl_detector_960_960_batch_1",
            "0b8478553f2f0374a1236e65f669f11335b1fea7756ca7bcdfcf9646657ed594",
            ZooFile(
                f"{_AUTOWARE}/tl_detector_yolox_s/v1/car_ped_tl_detector_labels.txt",
                _TLR_LABELS.sha256,
            ),
            "690cff409519aca26f4ec0fc56ed35d9aa23ee1c18d6205c43469ae06e2f4e02",
        ),
        _traffic_light(1, "1ad633066a1195006f4709f8fa07800dd65a74a814b3efb4c99bcc5a1a7962f6"),
        _traffic_light(4, "cf93eb1e1a97aefc6edd0c0c4d77c7f5fc2aa1e81e3c5c9cd49d976173d03a04"),
        _traffic_light(6, "0b05a89fb30f1f92c6ec687d48e8ceda4da6f81cbd82d8a102d168753a6cedb6"),
        _ultralytics(
            "yolov5n",
            "yolov5/releases/download/v7.0",
            "YOLOv5n, COCO, 640x640, 28.0 AP",
            "04f0e55c26f58d17145b36045780fe1250d5bd2187543e11568e5141d05b3262",
        ),
        _ultralytics(
            "yolo11n",
            "assets/releases/download/v8.3.0",
            "YOLO11n, COCO, 640x640, 39.5 AP",
            "634279b40c07c6391472c51ad45b81ebc48706a9a1fe72dd3396322acd0c053b",
        ),
        ZooModel(
            "dfine-n",
            "D-FINE-N of the ONNX community, COCO, 640x640, 42.8 AP",
            ZooFile(
                "https://huggingface.co/onnx-community/dfine_n_coco-ONNX/resolve/main/onnx/model.onnx",
                "0f684f409618ee8a822410e754a29caa817d1aa16283ce89cad936d0a48e2f35",
            ),
        ),
    )
}


def find(name: str) -> ZooModel:
    """Return a model by its name.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if (model := MODELS.get(name.lower().replace("_", "-"))) is None:
        fix = "see `yolox_trt models list`, or give the path of an ONNX or engine file"
        raise ConfigurationError.unknown("model", name, MODELS, fix=fix)
    return model


def fetch(
    model: ZooModel, *, folder: Path | None = None, on_progress: Progress = no_progress
) -> dict[str, Path]:
    """Bring a model's files into the cache; files that are there and intact stay.

    Args:
        model: which one.
        folder: the cache; None for the user's.
        on_progress: told how far each file is.

    Returns:
        File name -> path, the network first.

    Raises:
        ModelError: a file could not be downloaded, or its digest is wrong.
    """
    target = (folder or cache_folder("models")) / model.name
    found = {}
    for file in model.files:
        try:
            found[file.name] = download(
                file.url, target / file.name, sha256=file.sha256, on_progress=on_progress
            )
        except ModelError as error:
            raise ModelError(
                error.parts[0],
                expected=error.parts[1],
                fix=(f"yolox_trt models fetch {model.name}, with a connection; or ", error.fix),
            ) from error
    return found
