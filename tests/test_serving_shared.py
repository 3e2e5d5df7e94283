"""Several servers that share one database of PostgreSQL and one folder. `pytest -m services` runs these."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import PostgresServer, postgres_server, why_not
from servers import LiveServer, LocalServer
from typer.testing import CliRunner

from videodit.errors import InputError
from videodit.serving.keys import KeyRing
from videodit.serving.postgres import MIGRATIONS, is_url
from videodit.serving.records import Claim, Job, new_id
from videodit.serving.store import Answered, JobStore
from videodit.serving.unavailable import StoreUnavailable

pytestmark = pytest.mark.services


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def heads(tmp_path: Path, url: str) -> Iterator[tuple[LiveServer, LiveServer]]:
    with LiveServer(tmp_path / "data", database=url) as one, LiveServer(tmp_path / "data", database=url) as two:
        yield one, two


def a_job() -> Job:
    return Job(id=new_id("video"), owner="ann", model="mini", request={"prompt": "a ball"})


def test_what_one_server_takes_another_ones_worker_makes_and_both_show(heads: tuple[LiveServer, LiveServer]) -> None:
    one, two = heads
    job = one.create()
    assert two.job(job["id"])["status"] == "queued"
    assert two.worker.work_once()
    assert one.job(job["id"])["status"] == "completed"
    clips = [head.client.get(f"/v1/videos/{job['id']}/content").content for head in heads]
    assert clips[0] == clips[1]
    assert len(clips[0]) > 1000
    picture = one.client.get(f"/v1/videos/{job['id']}/content?variant=thumbnail").content
    upload = one.client.post("/v1/uploads", files={"file": ("first.webp", picture)}).json()
    again = two.create(seed=4, input_reference={"id": upload["id"]})
    assert one.worker.work_once()
    assert two.job(again["id"])["status"] == "completed", two.job(again["id"])


def test_a_server_that_begins_leaves_what_the_others_make(tmp_path: Path, url: str) -> None:
    with LiveServer(tmp_path / "data", database=url) as one:
        job = one.create()
        claim = one.begin()
        spooled = one.config.data / "servers"
        assert len(list(spooled.iterdir())) == 1
        with LiveServer(tmp_path / "data", database=url, models={"other": "mini"}) as two:
            assert len(list(spooled.iterdir())) == 2
            assert two.job(job["id"])["status"] == "in_progress"
            one.worker.store.beat(claim)
        assert one.job(job["id"])["status"] == "in_progress"
        assert len(list(spooled.iterdir())) == 1


def test_a_request_that_is_sent_to_two_servers_makes_one_job(url: str) -> None:
    with contextlib.closing(JobStore(url)) as one, contextlib.closing(JobStore(url)) as two:
        first = one.add(a_job(), answer=("key", "print"))
        with pytest.raises(Answered):
            two.add(a_job(), answer=("key", "print"))
        assert [job.id for job in two.page(None)[0]] == [first.id]


def test_revisions_are_seen_in_their_order_and_claims_are_given_once_whoever_writes(url: str) -> None:
    """Many connections at once: who asks for changes since the last one that it saw misses none."""
    most, errors, seen, claimed = 40, list[BaseException](), list[int](), list[str]()
    ended = threading.Event()

    def watch() -> None:
        with contextlib.closing(JobStore(url)) as store:
            last = 0
            while not ended.is_set() or store.revision > last:
                for job in store.changes(last, None):
                    seen.append(job.revision)
                    last = job.revision

    def work(name: str) -> None:
        try:
            with contextlib.closing(JobStore(url)) as store:
                for _ in range(most // 4):
                    store.add(a_job())
                while (job := store.claim(name, ["mini"])) is not None:
                    claimed.append(job.id)
                    claim = Claim(job.id, name, job.attempts)
                    store.beat(claim, stage="sampling")
                    assert store.complete(claim, output={}, recipe={}, expires=None)
        except BaseException as error:
            errors.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    watcher.join()
    assert not errors
    assert len(claimed) == len(set(claimed)) == most
    assert seen == sorted(set(seen))
    with contextlib.closing(JobStore(url)) as store:
        assert {job.revision for job in store.changes(0, None, limit=1000)} <= set(seen)


def test_a_database_that_was_away_is_used_again(tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with postgres_server() as database, LocalServer(tmp_path / "data", database=database.database()) as server:
        job = server.create()
        database.end()
        answer = server.client.post("/v1/videos", json={"prompt": "a ball"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        with pytest.raises(StoreUnavailable):
            server.worker.store.claim("one", ["mini"])
        database.start()
        assert server.job(job["id"])["status"] == "queued"
        server.create()


def test_a_writer_that_stands_still_holds_up_the_others_for_a_moment_only(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videodit.serving.postgres._WAIT_SECONDS", 1)
    with contextlib.closing(JobStore(url)) as still, contextlib.closing(JobStore(url)) as other:
        still._begin()
        still._next_revision()
        added = list[Job]()
        for _ in range(3):
            with contextlib.suppress(StoreUnavailable):
                added.append(other.add(a_job()))
        assert [job.revision for job in added] == list(range(1, len(added) + 1)) != []
        with pytest.raises(StoreUnavailable):
            still._next_revision()
        still._roll_back()
        assert still.add(a_job()).revision == len(added) + 1


def test_databases_that_are_not_ours_are_refused(url: str) -> None:
    with contextlib.closing(JobStore(url)) as store:
        store._db.execute("UPDATE format SET version = ?", (len(MIGRATIONS) + 1,))
    with pytest.raises(InputError, match="was written by a newer version of videodit: its format is"):
        JobStore(url)
    with pytest.raises(InputError, match=r"cannot use the database 'postgresql://me:…@127.0.0.1:1/x'"):
        JobStore("postgresql://me:secret@127.0.0.1:1/x")
    assert not is_url("jobs.sqlite3")


def test_both_databases_have_the_same_columns(url: str, tmp_path: Path) -> None:
    """A migration of one is a migration of the other."""
    asked = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    with contextlib.closing(JobStore(url)) as ours, contextlib.closing(JobStore(tmp_path / "jobs.sqlite3")) as file:
        there = {tuple(row) for row in ours._db.execute(asked)} - {("format", "version")}
        tables = [row[0] for row in file._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        here = {(table, row[1]) for table in tables for row in file._db.execute(f"PRAGMA table_info({table})")}
    assert there == here


def test_keys_are_kept_in_the_database(url: str, tmp_path: Path) -> None:
    from videodit.cli.serve import app

    made = CliRunner().invoke(app, ["keys", "add", "ann", "--database", url])
    assert made.exit_code == 0, made.output
    with contextlib.closing(JobStore(url)) as store:
        found = KeyRing(store).find(made.output.split()[-1])
        assert found is not None
        assert found.name == "ann"
    with pytest.raises(InputError, match=r"the database is 'mysql://x'; it must be like postgresql://user@host/name"):
        CliRunner().invoke(app, ["--database", "mysql://x"], catch_exceptions=False)
