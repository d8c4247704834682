"""What all tests share: no network, one thread, tiny models on demand."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
# Of this process and of those that tests start: threads that wait spin, and tiny tensors lose more
# to handing work over than they gain.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # where the real backbone has more of them
# Jobs that tests start and wait for would get next to nothing beside the other tests.
os.environ["CGCLORA_JOB_NICENESS"] = "0"

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # else xdist's controller, which runs no test, would wait for torch as well
    from transformers import PreTrainedTokenizerFast

    from cgclora.models.backbone import Backbone

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one takes its time
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be left out
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: browsers and servers keep tests waiting."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 tokens."""
    from tests.helpers.tiny import make_tokenizer

    return make_tokenizer()


@pytest.fixture
def tiny_backbone() -> Callable[..., Backbone]:
    """Make a fresh tiny backbone: `tiny_backbone("llama", seed=1)`."""
    from tests.helpers.tiny import make_backbone

    return make_backbone


@pytest.fixture(autouse=True)
def real_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of the real backbone compute with as many threads as a user's process does."""
    if request.node.get_closest_marker("backbone") is None:
        yield
        return
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)
