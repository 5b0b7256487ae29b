from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.trace import source as module
from harness.trace.source import source

HARNESS = str(Path(module.__file__).parents[1])


def test_the_innermost_line_of_ours_is_found() -> None:
    found: list[module.Source] = []

    def outside() -> None:
        found.append(source())

    def call(file: str, name: str, inner: Callable[[], None]) -> Callable[[], None]:
        scope: dict[str, Any] = {"inner": inner}
        exec(compile(f"\ndef {name}():\n    inner()\n", file, "exec"), scope)  # noqa: S102
        return scope[name]  # type: ignore[no-any-return]

    megatron = "/usr/lib/harness/site-packages/megatron/core/transformer/mlp.py"
    torch = "/usr/lib/harness/site-packages/torch/nn/module.py"
    tracer = f"{HARNESS}/trace/kernels.py"
    ours = f"{HARNESS}/model/norm.py"
    call(megatron, "forward", call(torch, "_call", call(tracer, "apply", outside)))()
    call(ours, "backward", call(megatron, "other", outside))()
    call(megatron, "backward", call(ours, "forward", outside))()
    call(megatron, "recv_backward", call(torch, "empty", outside))()
    call(torch, "run", outside)()
    assert [(str(each.place), each.place.function, each.in_forward) for each in found] == [
        ("megatron/core/transformer/mlp.py:3", "forward", True),
        ("megatron/core/transformer/mlp.py:3", "other", False),
        ("harness/model/norm.py:3", "forward", True),
        ("megatron/core/transformer/mlp.py:3", "recv_backward", False),
        ("?:0", "?", None),
    ]
