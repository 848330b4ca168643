"""A run is a folder; the queue and its worker are real processes here, with a stage that only sleeps."""

import json
import os
import re
import signal
import time

import psutil
import pytest

from playground.runs import queue
from playground.runs.run import ID, Run, RunError, Status, create, find, list_runs, runs_root, unused_name

SLEEPY = """
import time
from dataclasses import dataclass
from playground import settings
from playground.settings import setting

@dataclass
class Settings(settings.Settings):
    steps: int = setting(3, "Steps", "How many.")
    error: str = setting("", "Error", "What to raise.")
    load: bool = setting(False, "Load", "Wait for the stop before the first step.")
    linger: float = setting(0.0, "Linger", "Seconds between the stop and the end.")

def main(settings, run):
    if settings.error == "ValueError":
        raise ValueError("The data has no rows.")
    if settings.error:
        raise KeyError(settings.error)
    while settings.load:
        run.update(phase="loading")
        if run.stop_requested():
            return
        time.sleep(0.02)
    run.update(phase="training", total=settings.steps)
    for step in range(1, settings.steps + 1):
        run.log("train", step, {"loss": 1 / step})
        run.update(step=step)
        if run.stop_requested():
            time.sleep(settings.linger)
            return
        time.sleep(0.02)
"""
FOREVER = 2000  # steps; more than any test waits for, and an end all the same


# ---- one run folder


def test_a_new_run_appears_complete_and_queued():
    run = create("first", {"stage": "sft", "settings": {}})
    assert ID.fullmatch(run.id)
    assert {path.name for path in run.folder.iterdir()} == {"run.json", "status.json"}
    assert (run.request["id"], run.name, run.request["stage"]) == (run.id, "first", "sft")
    assert (run.status().state, run.status().phase, run.status().active) == ("queued", "waiting", True)
    assert list(runs_root().iterdir()) == [run.folder]


def test_runs_are_listed_oldest_first_and_half_made_folders_are_not():
    runs = [create(name, {}) for name in "abc"]
    (runs_root() / ".run_0123456789ab.part").mkdir()
    (runs_root() / "run_0123456789ab").mkdir()
    damaged = runs_root() / "run_ba9876543210"
    damaged.mkdir()
    (damaged / "run.json").write_text('{"id": ')
    assert list_runs() == runs


def test_names_are_cleaned_kept_apart_and_never_base():
    assert create("my  run: ü/../x\n", {}).name == "my-run-ü-..-x"
    assert [create("tutor", {}).name for _ in range(3)] == ["tutor", "tutor-2", "tutor-3"]
    assert create("base", {}).name == "base-2"
    assert create("///", {}).name == "run"
    assert len(unused_name("x" * 500)) == 60


def test_a_run_is_found_by_its_id_and_by_its_name():
    run = create("tutor", {})
    assert find(run.id) == find("tutor") == run
    with pytest.raises(RunError, match=r"no run called 'other'. Latest runs: tutor"):
        find("other")


@pytest.mark.parametrize("wrong", ["../x", "", "run_../../etc/xx", "run_0123456789AB", "run_0123456789ab\n", "base"])
def test_what_is_not_an_id_is_refused(wrong):
    with pytest.raises(RunError):
        Run(wrong)
    with pytest.raises(RunError):
        find(wrong)


def test_a_run_that_was_deleted_says_so():
    with pytest.raises(RunError, match="may have been deleted"):
        _ = Run("run_0123456789ab").name


def test_an_update_replaces_only_what_it_names_and_leaves_no_part_behind():
    run = create("a", {})
    run.update(step=3, total=10)
    run.update(phase="training")
    status = run.status()
    assert (status.step, status.total, status.phase, status.state) == (3, 10, "training", "queued")
    assert time.time() - status.heartbeat < 60
    assert not list(run.folder.glob(".*"))


def test_a_reader_never_sees_half_a_status(tmp_path):
    import threading

    run = create("a", {})
    done = threading.Event()

    def write():
        for step in range(300):
            run.update(step=step, message="x" * 5000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert run.status().state == "queued"
    writer.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "queued", "what": 1}'])
def test_a_damaged_status_reads_as_interrupted_and_can_be_queued_again(text):
    run = create("a", {})
    (run.folder / "status.json").write_text(text)
    assert run.status().state == "interrupted"
    run.requeue()
    assert run.status().state == "queued"


def test_events_come_back_in_order_with_null_for_what_is_no_number():
    run = create("a", {})
    run.log("train", 1, {"loss": 2.5, "grad_norm": float("nan")})
    run.log("eval", 2, {"loss": float("inf")})
    assert [(e["kind"], e["step"], e["values"]) for e in run.metrics()] == [
        ("train", 1, {"loss": 2.5, "grad_norm": None}), ("eval", 2, {"loss": None})]  # fmt: skip
    assert "NaN" not in (run.folder / "metrics.jsonl").read_text()


def test_samples_keep_every_character():
    run = create("a", {})
    run.sample(1, "Grüß\u2028Gott\n", "日本 🦙\r\n\x00")
    assert [(s["step"], s["prompt"], s["answer"]) for s in run.samples()] == [
        (1, "Grüß\u2028Gott\n", "日本 🦙\r\n\x00")
    ]


def test_a_line_that_is_still_being_written_is_left_out():
    run = create("a", {})
    run.sample(1, "p", "🦙")
    path = run.folder / "samples.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert len(run.samples()) == 1


def test_a_line_that_a_crash_cut_does_not_hide_the_ones_after_it():
    run = create("a", {})
    with (run.folder / "metrics.jsonl").open("w") as file:
        file.write('{"kind": "tra')
    run.log("train", 1, {"loss": 1.0})
    run.log("train", 2, {"loss": 0.5})
    assert [event["step"] for event in run.metrics()] == [2]


def test_what_was_never_written_is_empty():
    run = create("a", {})
    assert (run.metrics(), run.samples(), run.log_tail(), run.receipt()) == ([], [], "", {})


def test_the_log_s_tail_may_begin_inside_a_character():
    run = create("a", {})
    (run.folder / "log.txt").write_text("ä" * 100, encoding="utf-8")
    assert run.log_tail(11).endswith("äääää")


def test_the_revision_changes_with_every_kind_of_news():
    run = create("a", {})
    seen = {run.revision()}
    for news in (lambda: run.update(step=1), lambda: run.log("train", 1, {}), lambda: run.sample(1, "p", "a"),
                 lambda: run.write_receipt({"loss": 1})):  # fmt: skip
        time.sleep(0.01)  # file times are coarser than the clock
        news()
        seen.add(run.revision())
    assert len(seen) == 5
    assert run.receipt() == {"loss": 1}


# ---- states


def test_running_with_a_dead_process_reads_as_interrupted():
    run = create("a", {})
    run.update(state="running", pid=2**22 + 1, pid_started=1.0)
    assert run.status().state == "interrupted"
    assert run.status().message == "The process ended without saying why."


def test_a_pid_that_another_process_has_by_now_reads_as_interrupted():
    run = create("a", {})
    mine = psutil.Process()
    run.update(state="running", pid=mine.pid, pid_started=mine.create_time() - 60)
    assert run.status().state == "interrupted"
    run.update(pid_started=mine.create_time())
    assert run.status().state == "running"


def test_a_process_that_died_and_was_not_collected_reads_as_interrupted():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    run = create("a", {})
    run.update(state="running", pid=pid, pid_started=psutil.Process(pid).create_time())
    try:
        until(lambda: run.status().state == "interrupted")
    finally:
        os.waitpid(pid, 0)


def test_a_queued_run_that_is_stopped_ends_at_once():
    run = create("a", {})
    run.request_stop()
    assert (run.status().state, run.stop_requested()) == ("stopped", True)
    assert queue.queued() == []


def test_only_a_run_that_ended_early_can_be_queued_again():
    run = create("a", {})
    for state in ("queued", "finished"):
        run.update(state=state)
        with pytest.raises(RunError, match="only a run that ended early"):
            run.requeue()
    for state in ("stopped", "failed", "interrupted"):
        run.update(state=state, message="why", pid=1, step=4)
        (run.folder / "stop").touch()
        run.requeue()
        assert run.status() == Status(state="queued", step=4, heartbeat=run.status().heartbeat)
        assert not run.stop_requested()


def test_a_run_is_deleted_only_once_it_has_ended():
    run = create("a", {})
    with pytest.raises(RunError, match="still queued"):
        run.delete()
    run.update(state="finished")
    run.delete()
    assert list_runs() == []
    assert not run.folder.exists()


# ---- the worker


@pytest.fixture
def sleepy(tmp_path, monkeypatch):
    """Adds a stage `sleepy` to the worker's processes; afterwards all of them are stopped and gone."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "sleepy.py").write_text(SLEEPY)
    (tmp_path / "sitecustomize.py").write_text(
        f"import playground.stages\nplayground.stages.__path__.append({str(tmp_path / 'stages')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def new(name="sleepy", **settings) -> Run:
        return create(name, {"stage": "sleepy", "settings": settings})

    yield new
    for run in list_runs():
        run.request_stop()
    until(worker_is_gone)


def until(condition, seconds=30.0):
    """Waits for the condition and gives its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


def ended(run: Run):
    return until(lambda: not run.status().active and run.status())


def training(run: Run):
    return until(lambda: run.status().phase == "training" and run.status().state == "running" and run.status())


def worker_is_gone() -> bool:
    lock = queue.worker_lock()
    try:
        lock.acquire()
    except TimeoutError:
        return False
    lock.release()
    return True


def test_queued_runs_are_taken_in_order_and_one_at_a_time(sleepy):
    runs = [sleepy(name) for name in "abc"]
    queue.start_worker()
    assert [ended(run).state for run in runs] == ["finished"] * 3
    until(worker_is_gone)
    spans = [(run.metrics()[0]["t"], run.metrics()[-1]["t"]) for run in runs]
    assert spans[0][1] <= spans[1][0] <= spans[1][1] <= spans[2][0]
    assert [event["step"] for event in runs[0].metrics()] == [1, 2, 3]


def test_a_second_worker_leaves_at_once(sleepy):
    run = sleepy(steps=FOREVER)
    queue.start_worker()
    worker = psutil.Process(training(run).pid).parent()
    second = psutil.Popen([*worker.cmdline()], env=queue.worker_environment())
    assert second.wait(timeout=30) == 0
    assert run.status().state == "running"
    assert worker.is_running()


def test_a_run_queued_while_the_worker_is_busy_is_taken_too(sleepy):
    first = sleepy(steps=10)
    queue.start_worker()
    training(first)
    second = sleepy()
    queue.start_worker()
    assert (ended(first).state, ended(second).state) == ("finished", "finished")


def test_a_killed_process_leaves_interrupted_with_its_reason_and_the_queue_goes_on(sleepy):
    killed, following = sleepy(steps=FOREVER), sleepy()
    queue.start_worker()
    os.kill(training(killed).pid, signal.SIGKILL)
    until(lambda: "killed by signal 9" in killed.status().message)
    assert killed.status().state == "interrupted"
    assert killed.status().message.endswith("This is what running out of memory looks like.")
    assert ended(following).state == "finished"


def test_a_stop_ends_the_run_as_stopped_after_its_step(sleepy):
    run = sleepy(steps=FOREVER)
    queue.start_worker()
    training(run)
    run.request_stop()
    assert ended(run).state == "stopped"
    assert 0 < run.status().step < FOREVER


def test_a_run_stopped_while_it_loads_is_stopped_not_finished(sleepy):
    run = sleepy(load=True)
    queue.start_worker()
    until(lambda: run.status().phase == "loading")
    run.request_stop()
    assert ended(run).state == "stopped"


def test_sigterm_ends_the_run_as_stopped(sleepy):
    run = sleepy(steps=FOREVER)
    queue.start_worker()
    os.kill(training(run).pid, signal.SIGTERM)
    assert ended(run).state == "stopped"


def test_sigterm_to_the_worker_stops_its_run(sleepy):
    run = sleepy(steps=FOREVER)
    queue.start_worker()
    psutil.Process(training(run).pid).parent().terminate()
    assert ended(run).state == "stopped"


def test_a_worker_started_while_another_one_leaves_takes_what_is_queued(sleepy):
    run, waiting = sleepy(steps=FOREVER, linger=4.0), sleepy()
    queue.start_worker()
    psutil.Process(training(run).pid).parent().terminate()
    until(run.stop_requested)
    queue.start_worker()  # finds the lock taken for as long as the first run needs to end
    assert ended(run).state == "stopped"
    assert ended(waiting).state == "finished"


def test_a_stopped_run_goes_on_after_it_is_queued_again(sleepy):
    run = sleepy(steps=25)
    queue.start_worker()
    training(run)
    run.request_stop()
    assert ended(run).state == "stopped"
    run.requeue()
    queue.start_worker()
    assert ended(run).state == "finished"


def test_a_queued_run_that_is_stopped_never_starts(sleepy):
    first, second = sleepy(steps=FOREVER), sleepy()
    queue.start_worker()
    training(first)
    second.request_stop()
    first.request_stop()
    ended(first)
    until(worker_is_gone)
    assert second.status().state == "stopped"
    assert second.metrics() == []


@pytest.mark.parametrize(("error", "sentence"), [
    ("ValueError", "The data has no rows."), ("loss", "KeyError: 'loss'"),
])  # fmt: skip
def test_an_error_ends_the_run_as_failed_with_its_sentence(sleepy, error, sentence):
    run = sleepy(error=error)
    queue.start_worker()
    status = ended(run)
    assert (status.state, status.message) == ("failed", sentence)
    assert "Traceback" in run.log_tail()


def test_wrong_settings_and_unknown_stages_fail_and_the_queue_goes_on(sleepy):
    wrong, unknown, fine = sleepy(steps="many"), create("x", {"stage": "nothing", "settings": {}}), sleepy()
    queue.start_worker()
    assert ended(fine).state == "finished"
    assert (wrong.status().state, wrong.status().message) == ("failed", "Steps must be a number; got 'many'.")
    assert (unknown.status().state, "nothing" in unknown.status().message) == ("failed", True)


def test_a_damaged_status_does_not_stop_the_queue(sleepy):
    damaged, fine = sleepy(), sleepy()
    (damaged.folder / "status.json").write_text("{")
    queue.start_worker()
    assert ended(fine).state == "finished"
    assert damaged.status().state == "interrupted"


def test_after_the_worker_and_its_run_were_killed_the_next_worker_goes_on(sleepy):
    run, following = sleepy(steps=FOREVER), sleepy()
    queue.start_worker()
    child = psutil.Process(training(run).pid)
    worker = child.parent()
    worker.kill()
    child.kill()
    assert ended(run).state == "interrupted"
    assert following.status().state == "queued"
    until(worker_is_gone)
    queue.start_worker()
    assert ended(following).state == "finished"
    assert json.loads((run.folder / "status.json").read_text())["state"] == "interrupted"


def test_a_run_whose_worker_died_goes_on_alone_and_the_next_waits_for_it(sleepy):
    orphan, following = sleepy(steps=FOREVER), sleepy()
    queue.start_worker()
    psutil.Process(training(orphan).pid).parent().kill()
    until(worker_is_gone)
    queue.start_worker()
    until(lambda: not worker_is_gone())
    before = orphan.status().step
    until(lambda: orphan.status().step > before + 20)
    assert following.status().state == "queued"
    orphan.request_stop()
    assert ended(orphan).state == "stopped"
    assert ended(following).state == "finished"


def test_training_processes_get_no_secrets(monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "my_password", "CLIENT_SECRET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = queue.worker_environment()
    assert "secret" not in environment.values()
    assert re.fullmatch(r".+:/somewhere", environment["PYTHONPATH"])
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
