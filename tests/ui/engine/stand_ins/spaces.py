"""Acts as the hub's package `spaces` does on ZeroGPU, where there is neither.

What is put on `cuda` on the main thread is packed when Gradio serves the page: from then on it is
whole in forks alone. Marked generator functions run in a fork; what goes in and out is pickled, and
of an error the name alone comes out.
"""

import inspect
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import gradio as gr
import torch

calls: list[tuple[str, int]] = []
"""Marked functions that were called, each with the id of its fork."""

_fork = multiprocessing.get_context("fork")
_models: list[torch.nn.Module] = []
_packed: list[tuple[torch.Tensor, torch.Tensor]] = []
_to, _launch = torch.nn.Module.to, gr.Blocks.launch


def _put(model: torch.nn.Module, *place: Any, **options: Any) -> torch.nn.Module:
    if place != ("cuda",):
        return _to(model, *place, **options)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("this thread sees no device")
    _models.append(model)
    return model


def _pack(*arguments: Any, **options: Any) -> Any:
    for model in _models:
        for tensor in (*model.parameters(), *model.buffers()):
            _packed.append((tensor, tensor.detach().clone()))
            tensor.data.zero_()
    return _launch(*arguments, **options)


torch.nn.Module.to, gr.Blocks.launch = _put, _pack  # type: ignore[method-assign]


def _work(task: Callable[..., Any], sent: bytes, results: Any, stop: Any) -> None:
    for tensor, values in _packed:
        tensor.data.copy_(values)
    try:
        arguments, options = pickle.loads(sent)
        found = task(*arguments, **options)
        for one in found:
            if stop.is_set():
                found.close()
                break
            results.put(pickle.dumps(one))
        results.put(None)
    except Exception as error:
        results.put(type(error).__name__)


def GPU(task: Any = None, *, duration: int | None = None) -> Any:  # noqa: N802 - its name
    if task is None:
        return partial(GPU, duration=duration)
    assert inspect.isgeneratorfunction(task)

    @wraps(task)
    def call(*arguments: Any, **options: Any) -> Any:
        results, stop = _fork.SimpleQueue(), _fork.Event()
        sent = pickle.dumps((arguments, options))
        worker = _fork.Process(target=_work, args=(task, sent, results, stop), daemon=True)
        worker.start()
        calls.append((task.__name__, worker.pid or 0))
        try:
            while isinstance(found := results.get(), bytes):
                yield pickle.loads(found)
            if found is not None:
                raise gr.Error(found)
        except GeneratorExit:
            stop.set()
            while isinstance(results.get(), bytes):
                pass
            raise
        finally:
            worker.join()

    return call
