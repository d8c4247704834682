"""What the tests of the commands share."""

from pathlib import Path

import pytest

from cgclora.__main__ import main
from tests.helpers.commands import PROMPT, training, write
from tests.helpers.tiny import save_backbone


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone, data, and a run of it."""
    made = tmp_path_factory.mktemp("command line")
    save_backbone(made / "backbone")
    for name, count in (("train", 12), ("dev", 2)):
        write(
            made / f"{name}.jsonl",
            *(
                {"task": task, "input": f"{PROMPT} {index}", "target": target}
                for index in range(count)
                for task, target in (("mood", "好"), ("weather", "Is it"), ("unused", "x"))
            ),
        )
    assert main([*training(made), "--run", str(made / "run")]) == 0
    return made
