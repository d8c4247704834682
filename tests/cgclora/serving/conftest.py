"""The server of the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving import Served, save_adapters, serve


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved adapter of each config; the small one has a router."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapters(folder)
    return folder


@pytest.fixture(scope="module")
def served(folders: Path) -> Iterator[Served]:
    with serve(folders, adapters_folder=folders) as found:
        yield found
