# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fingerprint: everything that decides whether a built engine is the one that was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.coco import name_below
from yolox_trt.core.documents import checked
from yolox_trt.core.errors import FILE_ERRORS, EngineError, ModelError
from yolox_trt.core.files import open_plain, sha256_of
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    import onnx


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        EngineError: the file cannot be read.
    """
    with EngineError.instead_of(
        OSError,
        f"{path} cannot be read",
        expected="a readable file",
        fix="check the path and its permissions",
    ):
        return sha256_of(path)


def external_files(path: Path) -> list[str]:
    """Return the files in which an ONNX model keeps weights, by their paths from its own, sorted.

    Raises:
        ModelError: the file is not an ONNX model, or keeps weights outside of its own folder.
    """
    onnx = require("onnx", purpose="reading models")
    with (
        ModelError.instead_of(
            Exception,  # protobuf's own exception types differ between versions
            f"{path} is not an ONNX model",
            expected="an ONNX file",
            fix="export the model again",
        ),
        open_plain(path) as file,
    ):
        model = onnx.load(file, load_external_data=False)
    external = (t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL)
    entries = (entry for tensor in external for entry in tensor.external_data)
    locations = sorted({entry.value for entry in entries if entry.key == "location"})
    with ModelError.instead_of(
        ValueError,
        f"{path} keeps weights elsewhere",
        expected="files in its own folder, or in folders of it",
        fix="save it anew with its weights beside it: onnx.save(..., save_as_external_data=True)",
    ):
        return [name_below(location) for location in locations]


def model_sha256(path: Path, external: Sequence[str], *, own: str = "") -> str:
    """Return the SHA-256 of an ONNX model, in hexadecimal.

    Args:
        path: the ONNX file.
        external: its external_files, which count too.
        own: SHA-256 of the ONNX file alone, where it is known already.

    Raises:
        ModelError: an external file is missing.
        EngineError: a file cannot be read.
    """
    own = own or file_sha256(path)
    if not external:
        return own
    digest = hashlib.sha256(own.encode())
    for location in external:
        data = path.parent / location
        if not data.is_file():
            raise ModelError(
                f"{path.name} keeps weights in '{location}', which is missing",
                expected=f"the file {data}",
                fix="copy the .onnx together with its data files",
            )
        digest.update(f"{location}:{file_sha256(data)}".encode())
    return digest.hexdigest()


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a model: initialisers and those in attributes, subgraphs included."""
    for kind, value in message.ListFields():
        if kind.message_type is None:
            continue
        for part in (value,) if hasattr(value, "ListFields") else value:
            if kind.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


@dataclass(frozen=True)
class Fingerprint:
    """What an engine was built from and for. Two equal fingerprints mean the same engine.

    Attributes:
        onnx_sha256: of the model file (and its external data).
        precision: "fp32", "fp16" or "int8".
        calibration_sha256: of the calibration cache or dynamic ranges, or None.
        device: "gpu", "dla0", ...: a GPU counts by its compute capability, not by its ordinal.
        batch: smallest, best and largest batch of the optimisation profile.
        height: input rows.
        width: input columns.
        tensorrt_version: such as "8.5.2.2".
        flavour: "tensorrt" or "tensorrt_rtx".
        compute_capability: such as "8.7"; "portable" for a TensorRT-RTX engine with no target.
        options: other options that change the engine, as JSON values.
    """

    onnx_sha256: str
    precision: str
    calibration_sha256: str | None
    device: str
    batch: tuple[int, int, int]
    height: int
    width: int
    tensorrt_version: str
    flavour: str
    compute_capability: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"batch": list(self.batch)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Read what to_dict wrote.

        Raises:
            EngineError: an attribute is missing or unknown.
        """
        with EngineError.instead_of(
            FILE_ERRORS,
            "fingerprint that cannot be read",
            expected="what Fingerprint.to_dict writes",
            fix="build the engine again",
        ):
            smallest, best, largest = (int(n) for n in values["batch"])
            return checked(cls(**{**values, "batch": (smallest, best, largest)}))

    @property
    def key(self) -> str:
        """SHA-256 of the fingerprint, in hexadecimal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Fingerprint) -> list[str]:
        """Return one clause for each attribute in which `other` differs."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{name} {_short(theirs[name])} instead of {_short(mine[name])}"
            for name in mine
            if json.dumps(mine[name], sort_keys=True) != json.dumps(theirs[name], sort_keys=True)
        ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
