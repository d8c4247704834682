"""The queue of jobs, with real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cgclora.storage.atomic_io import read_sealed
from evals.jobs import job_files, worker
from evals.jobs.processes import (
    NICENESS,
    NICENESS_VARIABLE,
    job_niceness,
    set_for_this_process,
)
from evals.jobs.queue import Job, JobError, Jobs
from evals.jobs.worker import work

SLEEP = "import time; print('awake', flush=True); time.sleep(600)"


def python(code: str) -> tuple[str, str]:
    return "-c", code


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie has ended; whoever started it may have died before it.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


class Queue(Jobs):
    """A queue whose workers are ended with the test."""

    workers: list[subprocess.Popen[bytes]]

    def _start_worker(self) -> None:
        super()._start_worker()
        if self._worker is not None and self._worker not in self.workers:
            self.workers.append(self._worker)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    monkeypatch.setattr("evals.jobs.queue._START_SECONDS", 0.0)
    queue = Queue(tmp_path / "jobs")
    queue.workers = []
    yield queue
    for one in queue.workers:
        one.terminate()
        one.wait(30)


@pytest.fixture
def idle(jobs: Queue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue that nobody works on but `work`, called by the test."""
    monkeypatch.setattr(jobs, "_start_worker", lambda: None)
    return jobs


def sleeper(jobs: Queue) -> Job:
    """A running job that has begun to sleep."""
    job = jobs.submit("evaluate", python(SLEEP), title="sleep")
    wait_awake(job)
    return jobs.get(job.id)


def wait_awake(job: Job) -> None:
    # Not in the first line, which is the command; and the worker notes whom it has started.
    wait_for(lambda: "\nawake" in job.log_tail() and pid_of(job) is not None)


def pid_of(job: Job) -> int | None:
    process = json.loads((job.folder / "job.json").read_text())["process"]
    return process and process["pid"]


def state_is(jobs: Jobs, job: Job, state: str) -> Callable[[], bool]:
    return lambda: jobs.get(job.id).state == state


# Running ------------------------------------------------------------------------------------


def test_jobs_run_one_at_a_time_in_the_order_they_came(jobs: Queue, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    code = (
        "import sys, time; diary = open(sys.argv[1], 'a', buffering=1);"
        "print('begin', sys.argv[2], file=diary); time.sleep(0.3); print('end', file=diary)"
    )
    submitted = [
        jobs.submit("evaluate", [*python(code), str(diary), str(number)], title=str(number))
        for number in range(3)
    ]
    wait_for(lambda: all(job.state == "done" for job in jobs.all()))
    expected = [line for number in range(3) for line in (f"begin {number}", "end")]
    assert diary.read_text().splitlines() == expected
    assert [job.id for job in jobs.all()] == [job.id for job in reversed(submitted)]
    assert len(jobs.workers) == 1


def test_a_finished_job_says_what_it_was(jobs: Queue, tmp_path: Path) -> None:
    command = python("import sys; print('out'); print('error', file=sys.stderr)")
    job = jobs.submit("train", command, title="<b>mine</b>", facts={"tasks": ["a"], "n": 1})
    wait_for(state_is(jobs, job, "done"))
    done = jobs.get(job.id)
    assert (done.kind, done.title, done.facts) == ("train", "<b>mine</b>", job.facts)
    assert (done.place, done.code, done.stopping, done.resumable) == (0, 0, False, False)
    assert done.created <= (done.started or 0) <= (done.ended or 0)
    assert done.folder == jobs.root / job.id
    first, *rest = done.log_tail().splitlines()
    assert first == f"$ {done.command_line()}"
    assert sorted(rest) == ["error", "out"]
    assert done.log_tail(6).strip() in {"out", "error", "rror"}


def test_the_command_line_is_what_a_shell_reads_as_the_command(idle: Queue) -> None:
    job = idle.submit("evaluate", ["-m", "evals", "run", "--task", "it's one"], title="")
    said = subprocess.run(
        ["sh", "-c", f'python() {{ printf "%s\\n" "$@"; }}; {job.command_line()}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(said.stdout.splitlines()) == job.command


def test_a_command_finds_our_packages_and_the_directory_it_was_given_in(
    jobs: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = jobs.submit("evaluate", python("import evals, os; print(os.getcwd())"), title="")
    wait_for(state_is(jobs, job, "done"))
    assert str(tmp_path) in jobs.get(job.id).log_tail()


def printed(jobs: Queue, code: str) -> str:
    """What a job says after its first line, which is the command."""
    job = jobs.submit("evaluate", python(code), title="")
    wait_for(state_is(jobs, job, "done"))
    return jobs.get(job.id).log_tail().partition("\n")[2]


def test_a_command_has_the_environment_of_the_server_but_for_what_that_set_for_itself(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.jobs.processes._own", set())
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that it is taken away again
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        set_for_this_process(name, "128")
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"
    given = json.loads(printed(jobs, "import json, os; print(json.dumps(dict(os.environ)))"))
    assert given["LRU_CACHE_CAPACITY"] == "7"
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in given
    here, there = (
        {name: value for name, value in found.items() if name.startswith(("OMP_", "GOMP_", "KMP_"))}
        for found in (os.environ, given)
    )
    assert there == here  # as many threads as in a shell, and so the same bits


def test_the_caches_of_a_server_that_answers_are_its_own() -> None:
    code = "from ui.engine.memory import bound_memory; bound_memory(); import os, sys;"
    code += "from evals.jobs.processes import start; from pathlib import Path;"
    code += "names = ('LRU_CACHE_CAPACITY', 'ONEDNN_PRIMITIVE_CACHE_CAPACITY');"
    code += "here = [os.environ.get(name) for name in names]; print(here);"
    code += "there = 'import os; print([os.environ.get(name) for name in %r])' % (names,);"
    code += "sys.stdout.flush(); start(['-c', there], sys.stdout.buffer, Path.cwd()).wait()"
    environment = {name: value for name, value in os.environ.items() if "_CAPACITY" not in name}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == ["['128', '128']", "[None, None]"]


@pytest.mark.parametrize("written", ["-1", "20", "1.5", "low", "１"])
def test_another_niceness_is_a_whole_number(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv(NICENESS_VARIABLE, "19")
    assert job_niceness() == 19
    monkeypatch.setenv(NICENESS_VARIABLE, written)
    with pytest.raises(ValueError, match=NICENESS_VARIABLE):
        job_niceness()


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no niceness here")
def test_a_command_and_all_that_it_starts_yield_the_processors_to_the_server(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NICENESS_VARIABLE)
    group = Path("/proc/self/autogroup")
    show = (
        "import os; from pathlib import Path; group = Path('/proc/self/autogroup');"
        "print(os.getpriority(os.PRIO_PROCESS, 0), group.exists() and group.read_text().strip())"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {show!r}]); {show}"
    expected = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    lines = printed(jobs, f"import time; time.sleep(0.5); {code}").splitlines()
    assert len(lines) == 2
    for line in lines:
        niceness, session = line.split(" ", 1)
        assert int(niceness) == expected
        # Linux shares the processors out among sessions first: the job's own is niced.
        if group.exists() and group.read_text():
            assert session.endswith(f"nice {expected}")
            assert session.split()[0] != group.read_text().split()[0]


@pytest.mark.parametrize("code", ["raise SystemExit(4)", "import os; os.kill(os.getpid(), 9)"])
def test_a_command_that_fails_is_failed_and_the_next_one_runs(jobs: Queue, code: str) -> None:
    failing = jobs.submit("evaluate", python(code), title="")
    after = jobs.submit("evaluate", python("print('fine')"), title="")
    wait_for(state_is(jobs, after, "done"))
    failed = jobs.get(failing.id)
    assert failed.state == "failed"
    assert failed.code in {4, -signal.SIGKILL}
    assert failed.resumable


def test_a_command_that_cannot_even_start_is_failed(idle: Queue, tmp_path: Path) -> None:
    idle.submit("evaluate", python("\0"), title="")
    work(idle.root, idle=0.5)
    (job,) = idle.all()
    assert job.state == "failed"
    assert "null byte" in job.log_tail()


def test_places_in_the_queue_begin_at_one_and_move_up(idle: Queue) -> None:
    first, second, third = (
        idle.submit("evaluate", python(""), title=str(number)) for number in range(3)
    )
    assert [idle.get(job.id).place for job in (first, second, third)] == [1, 2, 3]
    assert idle.stop(first.id).place == 0
    assert [idle.get(job.id).place for job in (second, third)] == [1, 2]
    idle.resume(first.id)
    assert [idle.get(job.id).place for job in (first, second, third)] == [3, 1, 2]


def test_progress_bars_show_as_they_stood_last(idle: Queue) -> None:
    job = idle.submit("evaluate", python(""), title="")
    (job.folder / "log.txt").write_bytes("一\n 10%\r 50%\r100%\n二\r\n".encode())
    assert job.log_tail() == "一\n100%\n二\n"
    assert job.log_tail(3) == "\n二\n"


# Stopping -----------------------------------------------------------------------------------


def test_a_queued_job_that_is_stopped_never_runs(idle: Queue, tmp_path: Path) -> None:
    job = idle.submit("evaluate", python(f"open({str(tmp_path / 'ran')!r}, 'w')"), title="")
    assert idle.stop(job.id).state == "stopped"
    work(idle.root, idle=0.5)
    assert idle.get(job.id).state == "stopped"
    assert not (tmp_path / "ran").exists()


def test_a_running_job_is_stopped_with_all_that_it_started(jobs: Queue, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid));"
        "print('awake', flush=True); time.sleep(600)"
    )
    job = jobs.submit("train", python(code), title="")
    wait_awake(job)
    pids = [pid_of(job), int((tmp_path / "child").read_text())]
    assert all(map(alive, pids))
    assert jobs.stop(job.id).stopping
    wait_for(state_is(jobs, job, "stopped"))
    assert not any(map(alive, pids))
    assert not jobs.get(job.id).stopping


def test_a_job_that_does_not_listen_is_killed(idle: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.5)
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    job = idle.submit("evaluate", python(code), title="")
    thread = threading.Thread(target=work, args=(idle.root, 0.0))
    thread.start()
    wait_awake(job)
    idle.stop(job.id)
    thread.join(30)
    assert idle.get(job.id).state == "stopped"
    assert idle.get(job.id).code == -signal.SIGKILL


def test_a_job_that_ends_well_although_it_was_told_to_stop_is_done(jobs: Queue) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {SLEEP}"
    job = jobs.submit("evaluate", python(code), title="")
    wait_awake(job)
    jobs.stop(job.id)
    wait_for(state_is(jobs, job, "done"))


def test_stopping_what_has_ended_changes_nothing(jobs: Queue) -> None:
    job = jobs.submit("evaluate", python(""), title="")
    wait_for(state_is(jobs, job, "done"))
    before = jobs.get(job.id)
    assert jobs.stop(job.id) == before


# Going on -----------------------------------------------------------------------------------


def test_a_stopped_job_goes_on_with_the_same_command(jobs: Queue, tmp_path: Path) -> None:
    marker = tmp_path / "second time"
    code = f"import os, sys; there = os.path.exists({str(marker)!r}); there and sys.exit(); {SLEEP}"
    job = jobs.submit("train", python(code), title="", facts={"n": 1})
    wait_awake(job)
    jobs.stop(job.id)
    wait_for(state_is(jobs, job, "stopped"))
    marker.touch()
    again = jobs.resume(job.id)
    assert (again.command, again.facts, again.code) == (job.command, {"n": 1}, None)
    wait_for(state_is(jobs, job, "done"))
    assert jobs.get(job.id).log_tail().count("$ python -c") == 2


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_what_did_not_end_early_cannot_be_resumed(idle: Queue, state: str) -> None:
    job = idle.submit("evaluate", python(""), title="")
    path = job.folder / "job.json"
    values = {**read_sealed(path), "state": state}
    with idle.worker_lock(0):  # somebody works, so what runs does run
        path.write_text(json.dumps(values))
        with pytest.raises(JobError, match=f"is {state}"):
            idle.resume(job.id)


# Crashes ------------------------------------------------------------------------------------


def test_when_the_worker_is_killed_its_job_is_stopped_and_the_next_one_runs(jobs: Queue) -> None:
    job = sleeper(jobs)
    pid = pid_of(job)
    after = jobs.submit("evaluate", python("print('next')"), title="")
    jobs.workers[0].kill()
    jobs.workers[0].wait(10)
    stopped = jobs.get(job.id)
    assert stopped.state == "stopped"
    assert stopped.resumable
    assert stopped.ended is not None
    wait_for(lambda: not alive(pid))
    wait_for(state_is(jobs, after, "done"))


def test_when_worker_and_command_are_killed_the_job_is_stopped(jobs: Queue) -> None:
    job = sleeper(jobs)
    jobs.workers[0].kill()
    jobs.workers[0].wait(10)
    os.killpg(pid_of(job), signal.SIGKILL)
    assert Jobs(jobs.root).get(job.id).state == "stopped"


def test_a_worker_that_is_told_to_end_takes_its_job_with_it(jobs: Queue) -> None:
    job = sleeper(jobs)
    pid = pid_of(job)
    jobs.workers[0].terminate()
    jobs.workers[0].wait(10)
    wait_for(lambda: not alive(pid))
    assert jobs.get(job.id).state == "stopped"


def test_a_process_that_only_has_the_number_of_an_old_one_is_left_alone(idle: Queue) -> None:
    with subprocess.Popen([sys.executable, *python(SLEEP)], start_new_session=True) as stranger:
        job = idle.submit("evaluate", python(""), title="")
        path = job.folder / "job.json"
        process = {"pid": stranger.pid, "birth": "another boot 1"}
        values = {**read_sealed(path), "state": "running", "process": process}
        path.write_text(json.dumps(values))
        assert idle.get(job.id).state == "stopped"
        assert stranger.poll() is None
        stranger.kill()


def test_a_job_goes_on_when_the_server_that_started_it_has_ended(jobs: Queue) -> None:
    code = (
        "import sys; from pathlib import Path; from evals.jobs.queue import Jobs;"
        "job = Jobs(Path(sys.argv[1])).submit('evaluate', ['-c', sys.argv[2]], title='');"
        "print(job.id)"
    )
    sleep = "import time; time.sleep(1); print('survived')"
    server = subprocess.run(
        [sys.executable, "-c", code, str(jobs.root), sleep],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    wait_for(jobs.worker_lives)
    job = jobs.get(server.stdout.strip())
    wait_for(state_is(jobs, job, "done"))
    assert "survived" in jobs.get(job.id).log_tail()
    assert jobs.workers == []


def test_a_second_worker_leaves_the_jobs_to_the_first(jobs: Queue) -> None:
    job = sleeper(jobs)
    begun = time.monotonic()
    work(jobs.root, idle=60.0)
    assert time.monotonic() - begun < 30
    assert jobs.get(job.id).state == "running"


def test_a_worker_ends_when_there_is_nothing_to_do(idle: Queue) -> None:
    work(idle.root, idle=0.0)
    assert not idle.worker_lives()


def test_a_worker_that_cannot_start_is_not_started_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[object] = []

    def fail(*_: object) -> subprocess.Popen[bytes]:
        starts.append(_)
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        process.wait(30)
        return process

    monkeypatch.setattr("evals.jobs.queue.start", fail)
    jobs = Jobs(tmp_path)
    jobs.submit("evaluate", python(""), title="")
    for _ in range(5):
        jobs.all()
    assert len(starts) == 1


# Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"state": "queued"}', '{"state": "eaten"}'],
)
def test_damaged_folders_are_passed_over(jobs: Queue, content: str) -> None:
    for path in (jobs.prepare(), jobs.prepare()):
        (path / "job.json").write_text(content)
    (jobs.root / "something else").mkdir()
    sound = jobs.submit("evaluate", python(""), title="")
    wait_for(state_is(jobs, sound, "done"))
    assert [job.id for job in jobs.all()] == [sound.id]
    with pytest.raises(JobError, match="damaged"):
        jobs.get(path.name)


@pytest.mark.parametrize("key", ["command", "facts", "queued", "process", "clean", "ended"])
def test_a_field_of_another_type_is_damage(idle: Queue, key: str) -> None:
    job = idle.submit("evaluate", python(""), title="")
    path = job.folder / "job.json"
    path.write_text(json.dumps({**read_sealed(path), key: [["?"]]}))
    if key == "command":  # texts can be made of anything
        return
    assert idle.all() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "20261124-130501-a1b2/..", "x" * 20])
def test_only_ids_are_ids(idle: Queue, name: str) -> None:
    for call in (idle.get, idle.stop, idle.resume, idle.remove):
        with pytest.raises(JobError, match="no job id"):
            call(name)


def test_a_job_that_was_removed_is_gone(jobs: Queue) -> None:
    job = jobs.submit("evaluate", python(""), title="")
    wait_for(state_is(jobs, job, "done"))
    jobs.remove(job.id)
    assert jobs.all() == []
    assert [path for path in jobs.root.iterdir() if path.is_dir()] == []
    with pytest.raises(JobError, match="no job"):
        jobs.get(job.id)


def test_a_job_in_the_queue_is_not_removed(idle: Queue) -> None:
    job = idle.submit("evaluate", python(""), title="")
    with pytest.raises(JobError, match="stop it first"):
        idle.remove(job.id)
    assert idle.get(job.id) == job


def test_no_job_is_no_error(idle: Queue) -> None:
    assert idle.all() == []
    assert not idle.root.exists()


def test_requests_that_make_no_job_are_refused(idle: Queue) -> None:
    with pytest.raises(JobError, match="kind"):
        idle.submit("bake", python(""), title="")  # type: ignore[arg-type]
    job = idle.submit("evaluate", python(""), title="")
    with pytest.raises(JobError, match="prepare"):
        idle.submit("evaluate", python(""), title="", id=job.id)
    with pytest.raises(TypeError):
        idle.submit("evaluate", python(""), title="", facts={"no JSON": object()})
    assert [one.id for one in idle.all()] == [job.id]


# Uploads ------------------------------------------------------------------------------------


def test_uploads_are_removed_when_the_job_is_done(jobs: Queue) -> None:
    folder = jobs.prepare()
    (folder / "test.jsonl").write_text("private")
    (folder / "kept.txt").write_text("public")
    code = "import sys; print(len(open(sys.argv[1]).read()))"
    job = jobs.submit(
        "evaluate",
        [*python(code), str(folder / "test.jsonl")],
        title="",
        id=folder.name,
        clean=[folder / "test.jsonl"],
    )
    wait_for(state_is(jobs, job, "done"))
    wait_for(lambda: not (folder / "test.jsonl").exists())
    assert "7" in jobs.get(job.id).log_tail()
    assert (folder / "kept.txt").exists()


def test_uploads_of_a_stopped_job_wait_a_day_for_its_going_on(
    idle: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = idle.prepare()
    (folder / "test.jsonl").write_text("private")
    idle.submit("evaluate", python(""), title="", id=folder.name, clean=["test.jsonl"])
    assert idle.stop(folder.name).resumable
    other = idle.submit("evaluate", python(""), title="")
    assert (folder / "test.jsonl").exists()
    monkeypatch.setattr(job_files, "KEPT_SECONDS", 0.0)
    idle.stop(other.id)
    assert not (folder / "test.jsonl").exists()
    assert not idle.get(folder.name).resumable
    with pytest.raises(JobError, match="upload it"):
        idle.resume(folder.name)


def test_looking_is_enough_to_remove_uploads_that_were_kept_long_enough(
    idle: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = idle.prepare()
    (folder / "test.jsonl").write_text("private")
    idle.submit("evaluate", python(""), title="", id=folder.name, clean=["test.jsonl"])
    idle.stop(folder.name)
    idle.all()
    assert (folder / "test.jsonl").exists()
    monkeypatch.setattr(job_files, "KEPT_SECONDS", 0.0)
    idle.all()
    assert not (folder / "test.jsonl").exists()


@pytest.mark.parametrize("path", ["../test.jsonl", "/etc/passwd", "", "."])
def test_only_files_of_the_job_can_be_cleaned_up(idle: Queue, path: str) -> None:
    with pytest.raises(JobError, match="not in the job's folder"):
        idle.submit("evaluate", python(""), title="", clean=[path])


def test_a_folder_that_was_prepared_in_vain_is_removed(
    idle: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = idle.prepare()
    (given_up / "test.jsonl").write_text("private")
    idle.prepare()
    assert given_up.exists()
    monkeypatch.setattr(job_files, "_ABANDONED_SECONDS", 0.0)
    job = idle.submit("evaluate", python(""), title="")
    idle.prepare()
    assert not given_up.exists()
    assert job.folder.exists()


# The clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("jumps", [(0, -1e9, 5e8, -3.0), (2e9, 0, 0, 0)])
def test_a_clock_that_is_set_back_changes_no_order(
    idle: Queue, monkeypatch: pytest.MonkeyPatch, jumps: Sequence[float]
) -> None:
    now, ids = time.time(), []
    for jump in jumps:
        monkeypatch.setattr("evals.jobs.job_files.time.time", lambda jump=jump: now + jump)
        ids.append(idle.submit("evaluate", python(""), title="").id)
    assert [job.id for job in idle.all()] == ids[::-1]
    assert [idle.get(name).place for name in ids] == [1, 2, 3, 4]
    idle.stop(ids[0])
    idle.resume(ids[0])
    assert [idle.get(name).place for name in ids] == [4, 1, 2, 3]


def test_a_job_with_another_byte_is_named_and_the_others_are_there(idle: Queue) -> None:
    jobs = [idle.submit("evaluate", python("print(1)"), title="") for _ in range(2)]
    path = jobs[0].folder / "job.json"
    path.write_text(path.read_text().replace("print(1)", "print(9)"))
    with pytest.raises(JobError, match=f"{jobs[0].id} is damaged.*remove its folder"):
        idle.get(jobs[0].id)
    assert [job.id for job in idle.all()] == [jobs[1].id]
