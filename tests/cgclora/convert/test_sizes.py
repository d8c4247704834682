"""The size of an export before it is made, compared with the export."""

import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.convert import formats
from cgclora.convert.formats import Export, Format, export, register, size
from cgclora.convert.sizes import vllm_bytes
from cgclora.models.backbone import load_backbone
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import save_backbone

CLOSE = 0.03  # a tiny adapter is a third text, a real one less than a hundredth


@pytest.fixture(scope="module", params=["gemma3", "qwen2"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone and an adapter on it."""
    folder = tmp_path_factory.mktemp("saved")
    backbone = load_backbone(save_backbone(folder / "backbone", request.param), device="cpu")
    scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"])).save(folder / "adapter")
    return folder


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("tasks", [None, ["mood"]])
@pytest.mark.parametrize("name", ["peft", "gguf", "vllm", "merged"])
def test_the_size_of_an_export_is_known_before(saved, tmp_path, name, tasks, precision):
    if name == "merged":
        tasks = ["mood"]
    order = Export(
        [saved / "adapter"],
        tmp_path / "out",
        tasks,
        backbone=str(saved / "backbone"),
        base="x/y" if name == "vllm" else None,
        precision=precision,
    )
    expected = size(name, order)
    assert not (tmp_path / "out").exists()
    export(name, order)
    assert expected == pytest.approx(bytes_in(tmp_path / "out"), rel=CLOSE)


def test_a_copied_backbone_counts(saved, tmp_path):
    sizes = Export([saved / "adapter"], tmp_path).sizes()
    copied = vllm_bytes(sizes, saved / "backbone") - vllm_bytes(sizes, None)
    assert copied == bytes_in(saved / "backbone")


@pytest.fixture
def silent() -> Iterator[str]:
    """A format that does not say how large it is."""
    register(Format("silent", "of unknown size", lambda order: {}))
    yield "silent"
    del formats._formats["silent"]


def test_a_format_need_not_know_its_size(silent, saved, tmp_path, capsys):
    assert size(silent, Export([saved / "adapter"], tmp_path)) is None
    words = ["export", "--adapter", str(saved / "adapter"), "--format", silent, "--size"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "the format does not say\n"


def test_the_command_says_a_size_and_packs_an_export(saved, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", "--adapter", str(saved / "adapter"), "--format", "vllm", "--base", "x/y"]
    words += ["--backbone", str(saved / "backbone"), "--out", str(out)]
    assert main([*words, "--size"]) == 0
    assert re.fullmatch(r"about 0\.[12] MB\n", capsys.readouterr().out)
    assert not out.exists()
    assert main([*words, "--zip"]) == 0
    assert str(tmp_path / "out.zip") in capsys.readouterr().out
    with ZipFile(tmp_path / "out.zip") as archive:
        packed = {one.filename: archive.read(one) for one in archive.infolist() if not one.is_dir()}
        assert {one.compress_type for one in archive.infolist()} == {ZIP_STORED}
        script = archive.getinfo("out/serve.sh")
        assert script.external_attr >> 16 & 0o100  # it stays executable
    files = [path for path in out.rglob("*") if path.is_file()]
    assert packed == {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files}
