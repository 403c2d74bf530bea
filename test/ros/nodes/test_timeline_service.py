# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""~/timeline on a node and an executor of this process; test_executor_node has the whole one."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from std_srvs.srv import Trigger
from support.executors import GPU, simulated
from support.ros import Client

from yolox_trt.executor import InferenceExecutor
from yolox_trt.ros.nodes import timeline_service


def test_one_thread_writes_them_all_and_survives_a_failure(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each thread in which matplotlib draws keeps font files open.
    threads: list[threading.Thread] = []
    dump = timeline_service.dump_timeline

    def watched(*arguments: Any, **options: Any) -> None:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            raise ZeroDivisionError("broken")
        dump(*arguments, **options)

    monkeypatch.setattr(timeline_service, "dump_timeline", watched)
    parameters: Any = SimpleNamespace(timeline_folder=str(tmp_path), timeline_seconds=60.0)
    with InferenceExecutor([simulated(GPU)]) as executor:
        timeline_service.create_timeline_service(client.node, lambda: (parameters, executor))

        def write() -> bool:
            name = f"{client.node.get_fully_qualified_name()}/timeline"
            return bool(client.call(Trigger, name, Trigger.Request()).success)

        assert write()
        client.spin_until(write, what="another timeline after the one that failed")
        client.spin_until(lambda: list(tmp_path.glob("*.png")), what="a picture")
    assert len(threads) == 3
    assert len(set(threads)) == 1
