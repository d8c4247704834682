"""Formats of exports: one added from outside is offered and written like the others."""

import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.convert import formats
from cgclora.convert.formats import Export, Format, register
from tests.helpers.tiny import make_model


@pytest.fixture
def added():
    """A format that lists tasks in a text file."""

    def write(order: Export) -> dict[str, object]:
        order.out.mkdir()
        (order.out / "tasks.txt").write_text("\n".join(order.tasks or ()), encoding="utf-8")
        return {"files": {"tasks.txt": {"bytes": 3}}, "export": {"tasks": list(order.tasks or ())}}

    register(Format("list", "names of tasks", write))
    yield
    del formats._formats["list"]


def test_a_format_added_from_outside_is_offered_and_written(added, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "list: names of tasks" in " ".join(capsys.readouterr().out.split())
    Adapter.attach(make_model(), AdapterConfig(("NER", "QA"))).save(tmp_path / "a")
    out = tmp_path / "out"
    words = ["export", "--adapter", str(tmp_path / "a"), "--task", "NER", "--format", "list"]
    assert main([*words, "--out", str(out)]) == 0
    assert (out / "tasks.txt").read_text(encoding="utf-8") == "NER"
    assert capsys.readouterr().out.startswith("1 task as list")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'peft' already"):
        register(Format("peft", "another", lambda order: {}))
