# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""EngineFile: a serialised engine and the sidecar JSON that says what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import FILE_ERRORS, EngineError, ModelError, YoloxTrtError
from yolox_trt.core.files import read_trusted, write_trusted
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import OptionGroup, options_of, path_option
from yolox_trt.core.output_paths import json_text
from yolox_trt.engines.fingerprint import Fingerprint
from yolox_trt.graph.graph import Graph

if TYPE_CHECKING:
    import onnx

#: Suffixes of files that are built engines.
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class CacheOptions(OptionGroup):
    """Where built engines are kept."""

    engine_cache: Path | None = path_option(
        metavar="FOLDER", help="Folder of the engine cache (default: the user's cache)."
    )


#: How a plan of TensorRT begins.
_MAGIC = b"ftrt"

_FORMAT = 1


@dataclass(frozen=True)
class BuiltEngine:
    """What a builder makes, for an engine file.

    Attributes:
        engine: the serialised engine.
        spec: what the network takes and gives, as built (batch, input dtype).
        details: JSON values kept in the sidecar: build time, layers, formats.
    """

    engine: bytes
    spec: ModelSpec
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineFile:
    """An engine file whose sidecar was read.

    Attributes:
        path: the engine; the sidecar is `sidecar_path(path)`.
        fingerprint: what it was built from and for.
        spec: what the network takes and gives.
        details: more of the sidecar: build time, layers, input scale, formats.
        data: the serialised engine, whose checksum was checked; empty once it is loaded.
    """

    path: Path
    fingerprint: Fingerprint
    spec: ModelSpec
    details: Mapping[str, Any] = field(default_factory=dict)
    data: bytes = field(default=b"", repr=False, compare=False)

    def without_data(self) -> EngineFile:
        """Return it without the serialised engine, once that is loaded."""
        return dataclasses.replace(self, data=b"")


def sidecar_path(engine: Path) -> Path:
    """Return the path of an engine's sidecar JSON: the engine's name and `.json`."""
    return engine.with_name(engine.name + ".json")


def is_engine_file(path: str | Path) -> bool:
    """Whether a path's suffix is that of a built engine."""
    return Path(path).suffix.lower() in ENGINE_SUFFIXES


def is_loadable(path: str | Path) -> bool:
    """Whether an engine file is a DLA standalone loadable, by its sidecar; no check of either."""
    with contextlib.suppress(*FILE_ERRORS):
        values = parse_json(read_trusted(sidecar_path(Path(path)), LIMITS.json_bytes).decode())
        return bool(values["fingerprint"]["options"]["dla_standalone"])
    return False


def refuse_engine(path: Path) -> None:
    """Refuse a built engine where an ONNX model is wanted.

    Raises:
        ModelError: the file is one, by its suffix or its first bytes.
    """
    found = is_engine_file(path)
    if not found and path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            found = file.read(len(_MAGIC)) == _MAGIC
    if found:
        sidecar = sidecar_path(path)
        about = f"; {sidecar.name} beside it tells its layers" if sidecar.is_file() else ""
        raise ModelError(
            f"'{path}' is a built TensorRT engine{about}",
            expected="the ONNX file that it was built from",
            fix=f"give that file; an engine is run by `yolox_trt detect IMAGES --model {path}` and "
            "`yolox_trt evaluate`",
        )


def open_model(model: str | Path | onnx.ModelProto | Graph) -> Graph:
    """Return the graph of an ONNX file or a loaded model; a graph is returned as it is.

    Raises:
        ModelError: the file is no ONNX model; a built engine is told as such.
    """
    if isinstance(model, str | Path):
        refuse_engine(Path(model))
    return Graph.of(model)


def write_engine(path: Path, built: BuiltEngine, fingerprint: Fingerprint) -> EngineFile:
    """Write an engine and its sidecar, each atomically.

    A reader sees the old pair, the new pair, or two files that do not belong together, which
    the sidecar's checksum tells.

    Raises:
        EngineError: the folder cannot be written.
    """
    sidecar = {
        "format": _FORMAT,
        "fingerprint": fingerprint.to_dict(),
        "engine_sha256": hashlib.sha256(built.engine).hexdigest(),
        "engine_bytes": len(built.engine),
        "model_spec": built.spec.to_dict(),
        "details": built.details,
    }
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_trusted(path, built.engine)
        write_trusted(sidecar_path(path), json_text(sidecar).encode())
    return EngineFile(path, fingerprint, built.spec, built.details, built.engine)


def writing_to(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Raise an EngineError where the block cannot write an engine into a folder."""
    return EngineError.instead_of(
        OSError,
        f"engine cache {folder} cannot be written",
        expected="a folder with write permission and free space, and no links in it",
        fix=("choose another folder with ", options_of(CacheOptions)["engine_cache"]),
    )


def read_engine(path: Path) -> EngineFile:
    """Read an engine and its sidecar, and check one against the other.

    Raises:
        EngineError: a file is missing or corrupt, the two do not belong together, or somebody else
            may have written one of them.
    """
    fix = "build the engine again: yolox_trt build MODEL --output " + str(path)
    if not path.is_file():
        raise EngineError(f"no engine at {path}", fix=fix)
    sidecar = sidecar_path(path)
    try:
        values = parse_json(read_trusted(sidecar, LIMITS.json_bytes).decode())
        if values["format"] != _FORMAT:
            raise EngineError(
                f"sidecar of format {values['format']}", expected=f"format {_FORMAT}", fix=fix
            )
        fingerprint = Fingerprint.from_dict(values["fingerprint"])
        spec = ModelSpec.from_dict(values["model_spec"])
        expected = values["engine_sha256"]
        details = dict(values.get("details", {}))
    except FileNotFoundError:
        raise EngineError(
            f"engine {path} has no sidecar",
            expected=f"{sidecar.name} beside it, which tells what it was built from",
            fix=fix,
        ) from None
    except YoloxTrtError as error:
        raise EngineError(f"sidecar {sidecar}: {error}", fix=fix) from error
    except OSError as error:
        raise _untrusted(sidecar, error, fix) from error
    except FILE_ERRORS as error:
        raise EngineError(f"sidecar {sidecar} cannot be read ({error!r})", fix=fix) from error
    try:
        data = read_trusted(path)
    except OSError as error:
        raise _untrusted(path, error, fix) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise EngineError(
            f"engine {path} with SHA-256 {found[:12]}...",
            expected=f"{str(expected)[:12]}..., as its sidecar says (the file is damaged, or the "
            "two are not of one build)",
            fix=fix,
        )
    return EngineFile(path, fingerprint, spec, details, data)


def _untrusted(path: Path, error: OSError, fix: str) -> EngineError:
    return EngineError(
        f"{path} cannot be read, or not be trusted ({error.strerror or error})",
        expected="a file, no link, of this user or root, which nobody else may write",
        fix=f"{fix}; or, if you know who made it: chown or chmod go-w",
    )
