"""Gradio is imported without parsing the source of its components."""

import subprocess
import sys

SCRIPT = """
import ast, inspect, sys
sys.path.insert(0, sys.argv[1])
from ui.server.quick_import import without_stubs

parsed = []
parse = ast.parse
ast.parse = lambda source, *more, **named: parsed.append(source) or parse(source, *more, **named)
getfile = inspect.getfile
with without_stubs() if sys.argv[2] == "quick" else __import__("contextlib").nullcontext():
    import gradio
assert inspect.getfile is getfile
assert inspect.getfile(gradio.Textbox).endswith("textbox.py")
with gradio.Blocks():
    gradio.Textbox().change(str, None, None)
print(sum("class Textbox(" in source for source in parsed if isinstance(source, str)))
"""


def test_no_component_is_parsed(request):
    counts = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, str(request.config.rootpath), how],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()[-1]
        )
        for how in ("quick", "plain")
    }
    assert counts["quick"] == 0
    assert counts["plain"] > 0  # else Gradio has stopped, and the module is not needed any more
