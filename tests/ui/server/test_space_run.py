"""What is pushed to a Space runs there: with its requirements alone, read-only, as nobody."""

import json
import os
import pwd
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cgclora.models.embedded import EMBEDDED, embedded_folder
from evals.jobs.backup import BackupLog
from tests.browser.app_server import serve
from tests.helpers.run_dirs import around, write_run
from ui.server.space import prepare

pytestmark = pytest.mark.backbone

DEVELOPERS = ("pytest", "mypy", "ruff", "peft", "playwright", "hypothesis", "openai", "mcp")
SETTINGS = {
    "SYSTEM": "spaces",
    "SPACE_ID": "someone/cgclora",
    "SPACE_HOST": "someone-cgclora.hf.space",
    "SPACE_AUTHOR_NAME": "someone",
    "SPACE_REPO_NAME": "cgclora",
    "GRADIO_SERVER_NAME": "0.0.0.0",
}


def visitor() -> dict[str, Any]:
    """Words for `subprocess`: a user who owns nothing, where we may become another one."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def link(source: str, target: str) -> str:
    """As `shutil.copy2`, but without a second copy where both lie on one disk."""
    try:
        os.link(source, target)
    except OSError:
        copy2(source, target)
    return target


def interpreter(folder: Path) -> Path:
    """This Python, or what it consists of in a place that the visitor may read."""
    base = Path(sys._base_executable).resolve()
    try:
        subprocess.run([base, "-c", ""], check=True, **visitor())
    except PermissionError:
        stdlib = Path(sysconfig.get_path("stdlib"))
        unused = ignore_patterns("site-packages", "test")
        copytree(stdlib, folder / "lib" / stdlib.name, ignore=unused, copy_function=link)
        library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
        if library.suffix != ".a":
            link(str(library), str(folder / "lib" / library.name))
        (folder / "bin").mkdir()
        return Path(link(str(base), str(folder / "bin" / base.name)))
    return base


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own may be seen by its owner alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def code(place: Path) -> Iterator[Path]:
    """The folder that is pushed; nobody writes to it."""
    folder = place / "app"
    prepare(folder)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


@pytest.fixture(scope="module")
def home(place: Path) -> Path:
    """The one folder that the visitor may write to. The model is there: no need to wait for it."""
    folder = place / "home"
    copytree(
        embedded_folder(lambda *_: None),
        folder / ".cache" / "cgclora" / EMBEDDED,
        copy_function=link,
    )
    (folder / "tmp").mkdir()
    write_run(folder / "earlier" / "one", {"NER": around(0.5)})
    BackupLog(folder / "earlier", folder / "bucket").add_new()
    if who := visitor():
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                os.chown(path, who["user"], who["group"])
    return folder


def required(lines: Iterable[str]) -> dict[str, Distribution]:
    """What is installed here of a file of requirements, with all that it requires in turn."""
    found: dict[str, Distribution] = {}
    pending = [Requirement(line) for text in lines if (line := text.partition("#")[0].strip())]
    seen = set()
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        if str(one) in seen or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(str(one))
        found[name] = distribution(name)
        for text in found[name].requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            # What an extra brings is required as if it were no part of one.
            if marker and any(marker.evaluate({"extra": extra}) for extra in one.extras):
                requirement.marker = None
            pending.append(requirement)
    return found


@pytest.fixture(scope="module")
def python(place: Path, code: Path) -> Path:
    """A new environment with what the folder's requirements.txt says, and nothing else.

    Its packages are those of this environment, which pip has installed by the same file.
    """
    base = interpreter(place / "python")
    environment = place / "environment"
    subprocess.run([base, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/*/site-packages")
    for package in required((code / "requirements.txt").read_text("utf-8").splitlines()).values():
        for file in package.files or ():
            if ".." not in file.parts and (source := Path(str(file.locate()))).is_file():
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                link(str(source), str(target))
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def address(place: Path, code: Path, home: Path, python: Path) -> Iterator[str]:
    """Where the Space answers."""
    unset = [name for name in os.environ if name.startswith(("CGCLORA_", "XDG_", "PYTHON"))]
    settings = dict.fromkeys([*unset, "CGCLORA_ADAPTERS", "HF_HOME"]) | SETTINGS
    settings |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    settings |= {"CGCLORA_RUNS": str(home / "runs"), "CGCLORA_KEEP": str(home / "bucket")}
    settings["LD_LIBRARY_PATH"] = str(place / "python" / "lib")  # see `interpreter`
    # Gradio misses the hub's package `spaces` on a thread of its own: it is part of every Space's
    # image, and no requirement.
    options = {"python": python, "folder": code, "tracebacks": 1, **visitor()}
    with serve(settings, **options) as found:
        yield found


def call(address: str, name: str, *values: Any) -> tuple[str, Any]:
    """How a call of an endpoint ended, `complete` or `error`, and what it gave."""
    path = f"{address}/gradio_api/call/{name}"
    event = httpx.post(path, json={"data": values}, timeout=30).raise_for_status().json()
    reply = httpx.get(f"{path}/{event['event_id']}", timeout=120).raise_for_status().text
    kind, data = reply.strip().split("\n\n")[-1].split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_the_requirements_bring_nothing_that_only_developers_need(python):
    words = f"from importlib.util import find_spec; print([*filter(find_spec, {DEVELOPERS})])"
    found = subprocess.run([python, "-I", "-c", words], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_page_is_there_and_no_visitor_may_start_jobs(address):
    page = httpx.get(address, timeout=30)
    assert page.status_code == 200
    assert "CGC-LoRA" in page.text
    parts = httpx.get(f"{address}/config", timeout=30).json()["components"]
    visible = {part["props"].get("elem_id"): part["props"].get("visible") for part in parts}
    assert visible["bench-notice"] is True
    assert visible["bench-jobs-step"] is False


def test_the_tasks_of_both_shipped_adapters_are_listed(address):
    kind, (found,) = call(address, "tasks")
    assert kind == "complete"
    assert {task["cluster"] for task in found["tasks"]} == {"medical", "general"}


def test_the_model_answers_once_it_is_loaded(address):
    prompt = "判断下面搜索词的意图：\n尿酸520算高吗\n选项：治疗方案，指标解读，注意事项\n答："
    until = time.monotonic() + 120
    kind, found = "error", None
    while kind == "error" and time.monotonic() < until:
        kind, found = call(address, "generate", "KUAKE-QIC", prompt, "", True)
        time.sleep(0.5)
    assert kind == "complete", found
    assert found[0]["answer"]
    assert found[0]["parsed"]["unparsed"] == []


def test_an_evaluation_from_before_the_restart_is_there_again(address):
    kind, (found,) = call(address, "runs", "")
    assert kind == "complete"
    assert "local/one" in found["runs"]


def test_nothing_is_written_beside_the_code(address, code):
    assert not list(code.rglob("__pycache__"))
