"""Where a server keeps jobs: files of other versions, claims of workers, changes, and what has had its time."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from postgres import PostgresServer

from videodit.errors import InputError
from videodit.serving import database
from videodit.serving.claims import ClaimLost
from videodit.serving.config import ServerLimits
from videodit.serving.database import MIGRATIONS
from videodit.serving.finding import Found
from videodit.serving.folder import DataFolder
from videodit.serving.records import FINISHED, MOST_ATTEMPTS, Claim, Job, Upload, new_id
from videodit.serving.retention import RetentionStore
from videodit.serving.store import JobStore
from videodit.serving.unavailable import StoreUnavailable
from videodit.serving.upkeep import TOMBSTONE_SECONDS, Upkeep

DAY = 86_400.0


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """What a store opens: each test of a store holds for both databases."""
    if request.param == "sqlite":
        return tmp_path / "jobs.sqlite3"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(where: Path | str, clock: Clock) -> Iterator[RetentionStore]:
    store = RetentionStore(where, clock=clock)
    yield store
    store.close()


def new_job(**fields: Any) -> Job:
    return Job(**{"id": new_id("video"), "owner": "ann", "model": "mini", "request": {"prompt": "a ball"}} | fields)


def begun(store: JobStore, worker: str = "one", **fields: Any) -> Claim:
    """A job that a worker has begun."""
    job = store.add(new_job(**fields))
    found = store.claim(worker, ["mini"])
    assert found is not None
    assert found.id == job.id
    assert found.claim is not None
    return found.claim


def done(store: JobStore, **fields: Any) -> str:
    """A finished clip."""
    claim = begun(store)
    assert store.complete(claim, output={"bytes": 1}, recipe={}, expires=fields.get("expires"))
    return claim.job


# ---- the file


def test_an_older_file_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.sqlite3"
    with_job = JobStore(path)
    job = with_job.add(new_job())
    with_job.close()
    later = (*MIGRATIONS, "CREATE TABLE later (name TEXT); INSERT INTO later VALUES ('it ran');")
    monkeypatch.setattr(database, "MIGRATIONS", later)
    for _ in range(2):  # once only
        store = JobStore(path)
        assert store.get(job.id) == job
        assert store._one("SELECT count(*) FROM later") == 1
        assert store._one("PRAGMA user_version") == len(later)
        store.close()


def test_cards_of_an_older_form_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.sqlite3"
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", MIGRATIONS[:2])
        older = JobStore(path)
        older.publish("mini", {"name": "mini", "spec": {"image_kind": "keep_first"}})
        older.close()
    store = JobStore(path)
    assert store.cards() == {}
    store.publish("mini", {"name": "mini"})
    store.close()
    again = JobStore(path)
    assert again.cards() == {"mini": {"name": "mini"}}
    again.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.sqlite3"
    JobStore(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (name TEXT); SELECT nonsense;"))
        with pytest.raises(InputError, match=r"cannot read jobs from .*nonsense"):
            JobStore(path)
    store = JobStore(path)
    assert store._one("SELECT count(*) FROM sqlite_master WHERE name = 'later'") == 0
    store.close()


def test_files_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path) -> None:
    newer, other, damaged = (tmp_path / name for name in ("newer", "other", "damaged"))
    JobStore(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    damaged.write_bytes(b"no database" * 1000)
    for path, reason in (
        (newer, "was written by a newer version of videodit: its format is"),
        (other, "is another program's file"),
        (damaged, "cannot read jobs from .*: file is not a database"),
        (tmp_path / "missing" / "jobs.sqlite3", "cannot open"),
    ):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(InputError, match=reason):
            JobStore(path)
        assert (path.read_bytes() if path.exists() else None) == before


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite3")
    claim = begun(store)
    pages = store._one("PRAGMA page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="jobs cannot be written down now: database or disk is full"):
        store.add(new_job(request={"prompt": "a" * 100_000}))
    assert [job.id for job in store.page(None)[0]] == [claim.job]
    store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.add(new_job(request={"prompt": "a" * 100_000}))
    assert store.count("queued") == 1
    store.close()


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    first = DataFolder(tmp_path / "data")
    with first.held(), first.held():
        (first.spool / "half").write_bytes(b"1")
        with pytest.raises(InputError, match=r"another server keeps its jobs in .*; stop it, or choose another"):
            DataFolder(tmp_path / "data").held().__enter__()
        assert (first.spool / "half").exists()
    with DataFolder(tmp_path / "data").held():
        assert not (first.spool / "half").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        DataFolder(tmp_path / "file" / "data").held().__enter__()


# ---- claims


def test_a_job_that_was_put_back_is_no_longer_its_first_workers(store: JobStore) -> None:
    first = begun(store)
    assert store.put_back(first) == "queued"
    assert store.put_back(first) is None
    second = store.claim("two", ["mini"])
    assert second is not None
    assert (second.attempts, second.started) == (2, store.running()[0].started)
    for lost in (first, replace(first, attempt=2), replace(first, worker="two")):
        with pytest.raises(ClaimLost):
            store.beat(lost, stage="sampling", step=1)
        assert not store.complete(lost, output={}, recipe={}, expires=None)
        assert not store.fail(lost, "error", "late")
        assert store.put_back(lost) is None
    assert second.claim is not None
    assert store.complete(second.claim, output={"bytes": 1}, recipe={}, expires=None)


def test_a_job_is_begun_three_times_at_most(store: JobStore) -> None:
    claim = begun(store)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert claim.attempt == attempt
        for _ in range(5):  # ends of the server that were asked for count as none
            assert store.put_back(claim, counted=False) == "queued"
            again = store.claim("one", ["mini"])
            assert again is not None
            assert again.claim == claim
        assert store.put_back(claim) == ("queued" if attempt < MOST_ATTEMPTS else "failed")
        if attempt < MOST_ATTEMPTS:
            again = store.claim("one", ["mini"])
            assert again is not None
            assert again.claim is not None
            claim = again.claim
    job = store.get(claim.job)
    assert job is not None
    assert job.error is not None
    assert job.error["code"] == "worker_lost"


@pytest.mark.parametrize(
    ("stop", "state"),
    [
        (lambda store, id: store.cancel(id, "drop"), "failed"),
        (lambda store, id: store.delete(id), "failed"),
        (lambda store, id: store.cancel(id, "keep"), "queued"),  # what is finished of it is still to be made a clip
    ],
)
def test_a_stop_outlives_the_worker(store: JobStore, stop: Callable[[JobStore, str], object], state: str) -> None:
    claim = begun(store)
    stop(store, claim.job)
    assert store.put_back(claim) == state
    again = store.claim("two", ["mini"])
    assert (again is not None) == (state == "queued")
    if again is not None and again.claim is not None:
        assert store.beat(again.claim).cancel == "keep"


def test_a_stop_of_a_job_that_waits_again_sees_to_its_finished_windows(store: JobStore) -> None:
    claim = begun(store)
    store.put_back(claim)
    kept = store.cancel(claim.job, "keep")
    assert kept is not None
    assert (kept.state, kept.cancel) == ("queued", "keep")
    dropped = store.cancel(claim.job, "drop")
    assert dropped is not None
    assert (dropped.state, dropped.error) == ("failed", {"code": "cancelled", "message": "the job was cancelled"})


def test_jobs_of_models_that_are_gone_fail(store: JobStore) -> None:
    other, own = store.add(new_job(model="old")), store.add(new_job())
    assert store.refuse_others(["mini"]) == 1
    failed, waits = store.get(other.id), store.get(own.id)
    assert failed is not None
    assert waits is not None
    assert failed.error is not None
    assert (failed.error["code"], waits.state) == ("model_not_found", "queued")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_at_once_no_job_is_lost_or_doubled(store: JobStore, seed: int) -> None:
    """Clients, workers and the supervisor in any order: every job ends once, and what is deleted stays deleted."""
    draw = random.Random(seed)
    ids = [store.add(new_job()).id for _ in range(6)]
    claims = list[Claim]()  # also those that were lost: a worker may not know it yet
    completed, ended = list[str](), dict[str, str]()
    for _ in range(300):
        id, claim = draw.choice(ids), draw.choice(claims) if claims else None
        match draw.randrange(8):
            case 0 | 1:
                job = store.claim(draw.choice("ab"), ["mini"])
                if job is not None and job.claim is not None:
                    assert job.claim not in claims
                    claims.append(job.claim)
            case 2 if claim is not None:
                store.put_back(claim)
            case 3 if claim is not None:
                if store.complete(claim, output={"bytes": 1}, recipe={}, expires=None):
                    completed.append(claim.job)
            case 4 if claim is not None and draw.random() < 0.3:
                store.fail(claim, "error", "of the worker")
            case 5 if draw.random() < 0.2:
                store.cancel(id, draw.choice(["drop", "keep"]))
            case 6 if draw.random() < 0.1:
                store.delete(id)
            case 7 if claim is not None:
                with contextlib.suppress(ClaimLost):
                    store.beat(claim, stage="sampling", step=1, steps=2)
        for job in store.changes(0, None):
            assert (job.worker is not None and job.attempts <= MOST_ATTEMPTS) or job.state != "in_progress"
            assert ended.get(job.id, job.state) == job.state
            if job.state in FINISHED:
                ended[job.id] = job.state
    assert len(completed) == len(set(completed))
    assert {id for id, state in ended.items() if state == "completed"} == set(completed)


# ---- changes


def test_changes_are_seen_once_each_in_order_and_deletions_for_a_day(store: RetentionStore, clock: Clock) -> None:
    first, second = store.add(new_job()), store.add(new_job(owner="ben"))
    seen = store.revision
    assert store.changes(seen, None) == []
    store.cancel(first.id, "drop")
    store.delete(second.id)
    store.delete(first.id)
    changes = store.changes(seen, None)
    assert [(job.id, job.deleted is not None) for job in changes] == [(second.id, True), (first.id, True)]
    assert [job.id for job in store.changes(seen, "ben")] == [second.id]
    assert store.forgotten == 0
    clock.now += TOMBSTONE_SECONDS + 1
    assert store.forget(TOMBSTONE_SECONDS) == 2
    assert store.changes(seen, None) == []
    assert store.forgotten == changes[-1].revision == store.revision


def test_a_mark_changes_when_anybody_writes(store: JobStore, where: Path | str) -> None:
    other = JobStore(where)
    for writer in (store, other):
        before = store.written
        assert store.written == before
        writer.add(new_job())
        assert store.written != before
    other.close()


# ---- lists


PROMPTS = ["A red Ball", "a blue ball", "GREEN grass\0 and \\u0000", "Ärger über Öl", "zebra"]


def listed(store: JobStore, **found: Any) -> list[str]:
    return [job.request["prompt"] for job in store.page(None, found=Found(**found), order="asc", limit=100)[0]]


def test_lists_find_and_order_the_same_whatever_the_database(store: JobStore, clock: Clock) -> None:
    for number, prompt in enumerate(PROMPTS):
        settings = {"width": 64, "height": 32, "seed": number, "steps": 4, "num_frames": 33 - number, "fps": 24.0}
        claim = begun(store, request={"prompt": prompt, "loras": [{"source": "Film"}]}, settings=settings)
        store.complete(claim, output={"bytes": 2_000_000_000 + number % 3}, recipe={}, expires=None)
        clock.now += 1
    assert listed(store) == PROMPTS
    assert listed(store, sort="prompt") == [PROMPTS[at] for at in (1, 0, 2, 4, 3)]
    assert listed(store, sort="seconds") == PROMPTS[::-1]
    assert [prompt in PROMPTS[::3] for prompt in listed(store, sort="bytes")] == [True, True, False, False, False]
    for query, at in {
        "BALL red": [0],
        "grass": [2],
        "ÖL ärger": [3],
        "64x32 film": [0, 1, 2, 3, 4],
        "seed=4": [4],
        "100%": [],
        "mini": [0, 1, 2, 3, 4],
    }.items():
        assert listed(store, query=query) == [PROMPTS[one] for one in at], query
    seen, last = list[str](), None
    for _ in PROMPTS:
        (job,), more = store.page("ann", after=last, limit=1, order="asc", found=Found(sort="prompt"))
        seen, last = [*seen, job.request["prompt"]], job.id
        assert more == (len(seen) < len(PROMPTS))
    assert seen == listed(store, sort="prompt")


# ---- what has had its time


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    for name in ("jobs", "uploads"):
        (tmp_path / name).mkdir()
    return folder


def with_files(folder: DataFolder, id: str, bytes: int = 1000) -> str:
    folder.job(id).mkdir()
    (folder.job(id) / "video.mp4").write_bytes(b"\0" * bytes)
    return id


def limits(**values: Any) -> ServerLimits:
    return ServerLimits(**{"keep_seconds": 10 * DAY, "bin_seconds": 2 * DAY} | values)


def favour(store: JobStore, id: str) -> None:
    store._change("favourite = 1", "id = ?", (id,))


def test_files_go_when_their_time_is_over_and_records_later(
    store: RetentionStore, clock: Clock, folder: DataFolder
) -> None:
    old, loved, source, binned = (with_files(folder, done(store, expires=clock.now + 10 * DAY)) for _ in range(4))
    favour(store, loved)
    store._change("binned = ?", "id = ?", (clock.now, binned))
    waits = store.add(new_job(parent=source))
    upkeep = Upkeep(folder, store, limits())
    upkeep.run()
    assert len(folder.jobs()) == 4
    clock.now += 3 * DAY
    upkeep.run()
    assert store.get(binned) is None
    assert set(folder.jobs()) == {old, loved, source}
    clock.now += 8 * DAY
    upkeep.run()
    assert set(folder.jobs()) == {loved, source}
    job = store.get(old)
    assert job is not None
    assert (job.state, job.removed) == ("completed", clock.now)
    store.cancel(waits.id, "drop")
    clock.now += 10 * DAY
    upkeep.run()
    upkeep.run()
    assert folder.jobs() == [loved]
    assert store.get(old) is None
    assert store.get(loved) is not None


def test_the_quota_takes_the_bin_first_then_the_oldest_and_never_favourites(
    store: RetentionStore, clock: Clock, folder: DataFolder
) -> None:
    ids = []
    for _ in range(4):
        ids.append(with_files(folder, done(store)))
        clock.now += 1
    favour(store, ids[0])
    store._change("binned = ?", "id = ?", (clock.now, ids[3]))
    for quota, left in ((4000, ids), (3000, ids[:3]), (2000, [ids[0], ids[2]]), (1000, [ids[0]]), (999, [ids[0]])):
        Upkeep(folder, store, limits(quota_bytes=quota)).run()
        assert folder.jobs() == sorted(left)
        assert folder.full == (quota == 999)
    Upkeep(folder, store, limits(quota_bytes=1001)).run()
    assert not folder.full


def test_uploads_go_when_nobody_needs_them(store: RetentionStore, clock: Clock, folder: DataFolder) -> None:
    used, unused, unknown = (new_id("upload") for _ in range(3))
    for id in (used, unused):
        store.add_upload(Upload(id, "ann", "picture", 1, {}, clock.now, clock.now + DAY))
    for id in (used, unused, unknown):
        folder.upload(id).write_bytes(b"1")
    job = store.add(new_job(request={"prompt": "a ball", "conditions": [{"content": used}]}))
    upkeep = Upkeep(folder, store, limits())
    upkeep.run()
    assert len(folder.uploads()) == 3
    clock.now += 2 * DAY
    upkeep.run()
    assert set(folder.uploads()) == {used, unknown}  # a file without a record may be on its way in
    store.cancel(job.id, "drop")
    upkeep.run()
    assert folder.uploads() == [unknown]
    assert store.upload(used) is None


def test_folders_that_no_job_wants_are_swept(store: RetentionStore, folder: DataFolder) -> None:
    deleted, failed, clip = with_files(folder, done(store)), begun(store), with_files(folder, done(store))
    store.delete(deleted)
    store.fail(failed, "error", "of the worker")
    with_files(folder, failed.job)
    (folder.job(failed.job) / "sources").mkdir()
    running, young, stray = begun(store), with_files(folder, new_id("video")), with_files(folder, new_id("video"))
    with_files(folder, running.job)
    store.delete(running.job)  # its worker still writes
    os.utime(folder.job(stray), (1e9, 1e9))
    Upkeep(folder, store, limits()).run()
    assert set(folder.jobs()) == {clip, running.job, failed.job, young}  # the young one's record may be on its way
    assert [one.name for one in folder.job(failed.job).iterdir()] == ["sources"]  # it may be asked for again
    store.delete(failed.job)
    store.fail(running, "error", "of the worker")
    Upkeep(folder, store, limits()).run()
    assert set(folder.jobs()) == {clip, young}


def test_failed_jobs_go_with_what_they_started_from(store: RetentionStore, clock: Clock, folder: DataFolder) -> None:
    claim = begun(store)
    store.fail(claim, "error", "of the worker")
    (folder.job(claim.job) / "sources").mkdir(parents=True)
    clock.now += 11 * DAY
    Upkeep(folder, store, limits()).run()
    assert store.get(claim.job) is None
    assert folder.jobs() == []
