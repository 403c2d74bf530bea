# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""An ONNX file's metadata, read without its graph."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from yolox_trt.core.files import open_plain
from yolox_trt.core.optional import require

#: Numbers of ModelProto.metadata_props and of the fields of StringStringEntryProto, in onnx.proto.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2


@functools.cache
def _metadata_class() -> Any:
    """Return a message of which ModelProto is an extension: what it lacks is skipped unread."""
    require("onnx", purpose="reading a model's metadata")  # which brings protobuf
    descriptor_pb2, descriptor_pool, message_factory = (
        importlib.import_module(f"google.protobuf.{name}")
        for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="yolox_trt/metadata.proto", package="yolox_trt", syntax="proto2"
    )
    entry = file.message_type.add(name="Entry")
    for name, number in (("key", _KEY), ("value", _VALUE)):
        entry.field.add(
            name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
        )
    file.message_type.add(name="Metadata").field.add(
        name="metadata_props",
        number=_METADATA_PROPS,
        type=field.TYPE_MESSAGE,
        type_name=".yolox_trt.Entry",
        label=field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    described = pool.FindMessageTypeByName("yolox_trt.Metadata")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(described)
    return message_factory.MessageFactory(pool).GetPrototype(described)  # before protobuf 4.22


def read_metadata(path: Path) -> dict[str, str]:
    """Return what an ONNX file says in its metadata.

    Raises:
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: it is no protobuf message.
        MissingDependencyError: onnx is missing.
    """
    model = _metadata_class()()
    with open_plain(path) as file:
        model.ParseFromString(file.read())
    return {each.key: each.value for each in model.metadata_props}
