"""The container's files say what the app understands. Building it takes a network."""

import re
from pathlib import Path

import yaml

from ui.engine.settings import AppLimits, Settings, variable

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["cgclora"]


def steps(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", DOCKERFILE, re.MULTILINE)


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for step in steps("ENV") for pair in step.split())


def test_the_container_starts_the_app_as_nobody_in_particular():
    assert steps("USER") == ["app"]
    assert DOCKERFILE.index("\nUSER app") < DOCKERFILE.index("\nCMD ")
    assert steps("CMD") == ['["python", "app.py"]']
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", *steps("FROM"))


def test_the_health_check_asks_where_the_app_listens():
    (check,) = steps("HEALTHCHECK")
    assert f"http://127.0.0.1:{environment()['GRADIO_SERVER_PORT']}/health" in check


def test_what_is_written_goes_where_it_may_be_written():
    said = environment()
    settings = Settings.from_environment(said)
    writable = tuple(map(Path, ("/data", "/tmp")))
    places = [settings.runs, *(Path(said[name]) for name in ("CGCLORA_CACHE", "HF_HOME", "HOME"))]
    assert all(any(place.is_relative_to(one) for one in writable) for place in places)
    assert steps("VOLUME") == ["/data"]
    assert COMPOSE["volumes"] == ["data:/data"]
    assert COMPOSE["read_only"] is True
    assert any(place.startswith("/tmp") for place in COMPOSE["tmpfs"])


def test_in_a_container_jobs_end_with_the_server_and_visitors_start_none():
    settings = Settings.from_environment(environment())
    assert settings.jobs_end
    assert settings.json_log
    assert not settings.jobs_allowed
    grace = int(COMPOSE["stop_grace_period"].removesuffix("s"))
    assert grace > settings.ending_seconds


def test_a_container_has_no_rights_that_it_does_not_need():
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in COMPOSE["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["ports"])


def test_every_package_is_pinned():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        assert re.match(r"[\w.-]+(\[\w+\])?==[\w.]+(;|$)", line), line


def test_the_documentation_names_every_limit():
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    for name, value in vars(AppLimits()).items():
        assert re.search(rf"`{variable(name)}`\D*{value:,}\b", page), name
