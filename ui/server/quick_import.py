"""A quicker import of Gradio.

For each of its components Gradio parses the source, at every import, to keep a stub file for
editors up to date beside it: 40 % of the import's time.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_stubs() -> Iterator[None]:
    """Import Gradio within this context: no stub file is read or written.

    Gradio leaves out components without a source file, for which `inspect.getfile` raises OSError.
    """
    getfile = inspect.getfile

    def of_no_component(of: Any) -> str:
        if isinstance(of, type) and of.__module__.startswith("gradio."):
            raise OSError(f"no stub file for {of.__name__}")
        return getfile(of)

    inspect.getfile = of_no_component  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile
