"""Folders are the only state: files are written once and whole, and one process works on a run."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimbench.errors import UserError
from mimbench.store import lease as leases
from mimbench.store.files import canonical, fingerprint, read_json, remove_leftovers, write_atomically, write_json
from mimbench.store.records import GRID_FORMAT, read_record, write_record
from mimbench.store.results import RunFolder, Store, run_name
from mimbench.store.weights import load_weights, save_weights

SPEC = {"kind": "knn", "version": 1, "seed": 0}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def made(tmp_path) -> RunFolder:
    folder = Store(tmp_path).run(run_name(SPEC))
    folder.create(SPEC)
    return folder


@given(value=st.dictionaries(st.text(), json_values, max_size=5))
def test_what_is_written_is_what_is_read(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


@given(value=st.dictionaries(st.text(), json_values, min_size=2, max_size=5), order=st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_a_fingerprint(value, order):
    items = list(value.items())
    order.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(value)


@given(first=json_values, second=json_values)
def test_two_values_share_a_canonical_text_only_if_they_are_equal(first, second):
    if canonical(first) == canonical(second):
        assert first == second


def test_a_spec_is_written_once_and_a_different_one_is_refused(tmp_path):
    folder = made(tmp_path)
    folder.create(SPEC)  # the same again: nothing happens
    write_json(folder.path / "spec.json", {**SPEC, "seed": 1})
    with pytest.raises(UserError, match="does not match the folder's hash"):
        folder.create(SPEC)
    with pytest.raises(UserError, match="does not match the folder's hash"):
        folder.spec()


def test_a_result_is_never_replaced(tmp_path):
    folder = made(tmp_path)
    folder.finish({"metrics": {"accuracy": 1}}, {"seconds": 1})
    folder.finish({"metrics": {"accuracy": 2}}, {"seconds": 2})
    assert folder.result()["metrics"]["accuracy"] == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1}trailing'])
def test_a_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json"):
        read_json(path)


@given(value=st.dictionaries(st.text(), json_values, max_size=5), data=st.data())
def test_a_record_with_a_changed_byte_is_named(tmp_path_factory, value, data):
    path = tmp_path_factory.mktemp("record") / "result.json"
    value.pop("sha256", None)
    write_record(path, value)
    assert canonical(read_record(path)) == canonical(value)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assume(b'"sha256"' in content)
    with contextlib.suppress(UserError):
        assert canonical(read_record(path)) == canonical(value)  # white space, or "\\u0041" for "A"


def test_a_record_without_a_digest_is_refused(tmp_path):
    write_json(tmp_path / "result.json", {"metrics": {"accuracy": 1.5}})
    with pytest.raises(UserError, match="does not match its content"):
        read_record(tmp_path / "result.json")


def test_states_follow_from_the_files(tmp_path):
    folder = made(tmp_path)
    assert folder.state() == "planned"
    lease = folder.acquire()
    attempt = folder.begin_attempt({})
    assert folder.state() == "running"
    folder.fail(attempt, ValueError("no"))
    lease.release()
    assert folder.state() == "failed"
    assert folder.last_failure()["message"] == "no"
    folder.begin_attempt({})
    assert folder.state() == "stopped"
    folder.finish({}, {})
    assert folder.state() == "done"


def test_one_process_holds_the_lease_of_a_run(tmp_path):
    folder = made(tmp_path)
    lease = folder.acquire()
    assert RunFolder(folder.path).acquire() is None
    lease.release()
    again = RunFolder(folder.path).acquire()
    assert again is not None
    again.release()


def test_a_process_that_lost_its_lease_does_not_release_the_next_one(tmp_path, monkeypatch):
    """After a takeover and a release, a third process reuses the number."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    folder, lost = made(tmp_path), threading.Event()
    silent = folder.acquire(on_lost=lost.set)
    silent.path.unlink()  # taken over, done and released meanwhile
    third = RunFolder(folder.path).acquire()
    assert third.path == silent.path
    assert lost.wait(10)
    silent.release()
    assert third.path.exists()
    assert RunFolder(folder.path).acquire() is None
    third.release()
    assert not third.path.exists()


def _hold_and_sleep(path, ready):
    from pathlib import Path

    RunFolder(Path(path)).acquire()
    ready.set()
    time.sleep(60)


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path):
    folder = made(tmp_path)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_sleep, args=(str(folder.path), ready))
    process.start()
    assert ready.wait(30)
    assert folder.acquire() is None
    process.kill()
    process.join()
    lease = folder.acquire()
    assert lease is not None
    assert len(list(folder.path.glob("claim-*"))) == 1
    lease.release()


def test_a_lease_of_another_host_is_taken_over_only_without_a_heartbeat(tmp_path):
    folder = made(tmp_path)
    path = folder.path / "claim-0"
    path.write_text(json.dumps({"machine": "elsewhere", "host": "elsewhere", "pid": 1, "start": "1"}))
    assert folder.acquire() is None
    old = time.time() - leases.DEAD_AFTER_SECONDS - 1
    os.utime(path, (old, old))
    lease = folder.acquire()
    assert lease is not None
    lease.release()


def _race(path, start, results):
    from pathlib import Path

    start.wait()
    lease = RunFolder(Path(path)).acquire()
    results.put(lease is not None)
    time.sleep(1)


def test_one_of_many_processes_wins_a_dead_lease(tmp_path):
    folder = made(tmp_path)
    lease = folder.acquire()
    owner = folder.owner()
    lease.release()
    (folder.path / "claim-3").write_text(json.dumps({**owner, "pid": 2**22 + 1, "start": "0"}))  # no such process here
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(str(folder.path), start, results)) for _ in range(8)]
    for racer in racers:
        racer.start()
    start.set()
    won = [results.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
    assert sum(won) == 1


def _finish_one(root, number, start):
    store = Store(root)
    spec = {"kind": "knn", "seed": number}
    folder = store.run(run_name(spec))
    folder.create(spec)
    lease = folder.acquire()
    folder.begin_attempt({"number": number})
    start.wait()
    folder.finish({"kind": "knn", "number": number}, {"seconds": 1.0})
    lease.release()


def test_two_hundred_runs_finishing_at_once_are_all_complete(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=_finish_one, args=(str(tmp_path / "results"), n, start)) for n in range(200)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 200
    folders = list(Store(tmp_path / "results").all_runs())
    assert sorted(f.result()["number"] for f in folders) == list(range(200))
    assert all(f.state() == "done" and f.cost() == {"seconds": 1.0} for f in folders)
    assert not list((tmp_path / "results").rglob("*.tmp"))
    assert not list((tmp_path / "results").rglob("claim-*"))


def _hold_lock(root, counter, held):
    store = Store(root)
    for _ in range(5):
        with store.lock("submitting", 60):
            held.value += 1
            assert held.value == 1
            time.sleep(0.01)
            held.value -= 1
    counter.put(True)


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    counter, held = context.Queue(), context.Value("i", 0, lock=False)
    processes = [context.Process(target=_hold_lock, args=(str(tmp_path), counter, held)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 4


def test_a_lease_whose_job_has_ended_is_taken_over_at_once(tmp_path):
    folder = made(tmp_path)
    write_json(folder.path / "claim-0", {"machine": "another", "host": "n7", "pid": 1, "start": "0", "job": "17_3"})
    assert folder.acquire() is None
    lease = folder.acquire(is_dead=lambda owner: owner["job"] == "17_3")
    assert lease is not None
    assert lease.path.name == "claim-1"
    lease.release()


@pytest.mark.parametrize(
    "owner", [{"pid": "1"}, {"pid": "../../self"}, {"pid": 2**70}, {"pid": None}, {"start": 3}, {}]
)
def test_an_owner_whose_process_is_oddly_named_is_judged_by_its_heartbeat(tmp_path, owner):
    folder = made(tmp_path)
    lease = folder.acquire()
    claim = {**json.loads(lease.path.read_text()), **owner}
    lease.release()
    for key in [key for key in ("pid", "start") if not owner]:
        del claim[key]
    path = folder.path / "claim-0"
    write_json(path, claim)
    recent = isinstance(owner.get("pid"), int)  # a number says which process, however large
    assert folder.is_held() != recent
    os.utime(path, (1, 1))
    assert not folder.is_held()


def test_a_claim_that_is_a_link_to_itself_holds_nothing(tmp_path):
    folder = made(tmp_path)
    (folder.path / "claim-0").symlink_to(folder.path / "claim-0")
    lease = folder.acquire()
    assert lease is not None
    lease.release()


def test_a_heartbeat_from_before_the_clock_was_set_back_holds_nothing(tmp_path):
    folder = made(tmp_path)
    path = folder.path / "claim-0"
    write_json(path, {"machine": "another", "host": "n7", "pid": 1, "start": "0"})
    assert folder.is_held()
    later = time.time() + 3 * 3600
    os.utime(path, (later, later))
    assert not folder.is_held()


def test_an_attempt_after_the_clock_was_set_back_is_still_the_last_one(tmp_path, monkeypatch):
    folder = made(tmp_path)
    folder.begin_attempt({"number": 1})
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    for number in (2, 3):
        folder.fail(folder.begin_attempt({"number": number}), ValueError("the cause"))
    assert folder.failed()
    assert [attempt["number"] for attempt in folder.attempts()] == [1, 2, 3]


def test_a_folder_that_was_moved_away_is_not_made_again(tmp_path):
    folder = made(tmp_path)
    folder.path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        folder.begin_attempt({})
    with pytest.raises(FileNotFoundError):
        folder.finish({}, {})
    assert not folder.path.exists()


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    old, new = tmp_path / "runs" / ".result.json.host.1.2.tmp", tmp_path / ".spec.json.host.1.2.tmp"
    old.parent.mkdir()
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (1, 1))
    remove_leftovers(tmp_path)
    assert not old.exists()
    assert new.exists()


def _write_forever(path):
    from pathlib import Path

    number = 0
    while True:
        write_atomically(Path(path), json.dumps({"number": number, "filler": "x" * 200_000}))
        number += 1


@settings(max_examples=5)
@given(delay=st.floats(0.0, 0.05))
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path_factory, delay):
    path = tmp_path_factory.mktemp("kill") / "value.json"
    write_json(path, {"number": -1})
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(str(path),))
    process.start()
    time.sleep(0.05 + delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert "number" in read_json(path)


def test_a_read_only_results_folder_is_named_before_any_compute(tmp_path):
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(target).check_writable()


def test_other_folders_under_runs_are_ignored(tmp_path):
    folder = made(tmp_path)
    (tmp_path / "runs" / "lost+found").mkdir()
    (tmp_path / "runs" / "note.txt").write_text("")
    assert [f.name for f in Store(tmp_path).all_runs()] == [folder.name]


@pytest.mark.parametrize(
    "content", ["[]", "nonsense", '{"name": "of version 0.1"}', '{"format": 2, "sha256": "edited"}']
)
def test_an_unreadable_grid_record_is_named_and_hides_no_other(tmp_path, content):
    from mimbench.cli.status import status

    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "foreign.tiny.json").write_text(content)
    fine = {"name": "fine", "scale": "tiny", "seeds": [0], "columns": [], "rows": [{"name": "a", "runs": {}}]}
    write_record(tmp_path / "grids" / "z.tiny.json", {"format": GRID_FORMAT, **fine})
    lines = "\n".join(status(Store(tmp_path))[0])
    assert "foreign.tiny.json" in lines
    assert "fine at scale tiny" in lines


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b"{}", b'{"machine": 3}'])
def test_an_unreadable_lease_counts_as_held_while_its_file_is_recent(tmp_path, content):
    folder = made(tmp_path)
    path = folder.path / "claim-0"
    path.write_bytes(content)
    assert folder.acquire() is None
    os.utime(path, (1, 1))
    lease = folder.acquire()
    assert lease is not None
    lease.release()


def test_a_process_that_listed_the_leases_too_early_withdraws(tmp_path, monkeypatch):
    """It saw no lease; then others acquired one and were taken over: claim-0 is free again, but claim-1 is alive."""
    folder = made(tmp_path)
    holder = folder.acquire()
    (folder.path / "claim-0").rename(folder.path / "claim-1")
    looked, listdir = iter([[]]), os.listdir
    monkeypatch.setattr(leases.os, "listdir", lambda path: next(looked, listdir(path)))
    assert RunFolder(folder.path).acquire() is None
    assert next(looked, None) is None  # the early look took place
    holder.release()  # as a process that lost its lease, it leaves the other's
    assert list(folder.path.glob("claim-*")) == [folder.path / "claim-1"]


def test_a_process_that_died_without_an_error_has_failed(tmp_path):
    from mimbench.launch.local import record_death

    folder = made(tmp_path)
    record_death(folder, -9)
    assert folder.state() == "failed"
    assert "SIGKILL" in folder.last_failure()["message"]
    attempt = folder.begin_attempt({})
    folder.fail(attempt, ValueError("another reason"))
    assert folder.last_failure()["message"] == "another reason"


def test_a_bit_that_flips_anywhere_in_saved_weights_changes_no_number_in_silence(tmp_path):
    path, rng = tmp_path / "weights.pt", np.random.default_rng(0)
    state = {"step": 5, "objective": {f"layer.{n}": torch.randn(16, 16) for n in range(4)}}
    save_weights(state, path)
    whole = path.read_bytes()
    caught = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = load_weights(path)
        except UserError:
            caught += 1
            continue
        assert found["step"] == 5
        assert all(torch.equal(found["objective"][name], value) for name, value in state["objective"].items())
    assert caught > 150
