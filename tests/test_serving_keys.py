"""Who may: keys, owners, sessions of browsers, and a server that others can reach."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import QUICK, LocalServer

from videodit.cli.main import main
from videodit.serving.config import ServerConfig, ServerLimits
from videodit.serving.keys import FailedLogins, KeyRing
from videodit.serving.store import JobStore


class Owners:
    """A server with keys of two users, and what each of them sends."""

    def __init__(self, server: LocalServer) -> None:
        self.server, self.client = server, server.client
        self.ring = KeyRing(server.worker.store)
        self.keys = {name: self.ring.add(name) for name in ("ann", "bob")}

    def as_(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}"}


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Owners]:
    with LocalServer(tmp_path / "data", limits=ServerLimits(failed_logins=3)) as server:
        yield Owners(server)


def test_keys_are_kept_as_hashes_alone(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite3")
    ring = KeyRing(store)
    key = ring.add("ann", concurrency=3)
    token = ring.open_session("ann", 60)
    store.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.encode() not in content
    assert token.encode() not in content
    assert key.startswith("vd_")
    assert len(key) == 3 + 43


def test_sessions_end(tmp_path: Path) -> None:
    now = 1000.0
    store = JobStore(tmp_path / "jobs.sqlite3")
    ring = KeyRing(store, clock=lambda: now)
    ring.add("ann")
    token = ring.open_session("ann", 60)
    assert ring.session(token) == "ann"
    assert ring.session(f"{token}x") is None
    assert ring.session("é") is None
    now = 1061.0
    assert ring.session(token) is None
    token = ring.open_session("ann", 60)
    assert ring.remove("ann")
    ring.add("ann")
    assert ring.session(token) is None
    store.close()


def test_nobody_comes_in_without_a_key(owners: Owners) -> None:
    for path in ("/v1/videos", "/v1/uploads/x", "/metrics", "/openapi.json", "/page/nothing.js", "/nowhere"):
        answer = owners.client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for wrong in ("Bearer x", "Bearer vd_" + "a" * 43, "Basic YTpi", f"Bearer {owners.keys['ann']}x", "Bearer \xe9"):
        headers = {"authorization": wrong.encode("latin-1")}
        assert owners.client.get("/v1/videos", headers=headers).status_code == 401
    for path in ("/health", "/ready", "/login", "/"):
        assert owners.client.get(path).status_code == 200, path


def test_owners_see_their_jobs_alone(owners: Owners) -> None:
    job = owners.client.post("/v1/videos", json=QUICK, headers=owners.as_("ann")).json()
    assert owners.server.work()
    assert owners.client.get("/v1/videos", headers=owners.as_("bob")).json()["data"] == []
    assert len(owners.client.get("/v1/videos", headers=owners.as_("ann")).json()["data"]) == 1
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/cancel")):
        answer = owners.client.request(method, f"/v1/videos/{job['id']}{path}", headers=owners.as_("bob"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    assert owners.client.get(f"/v1/videos?after={job['id']}", headers=owners.as_("bob")).status_code == 404
    assert owners.client.get(f"/v1/videos/{job['id']}/content", headers=owners.as_("ann")).status_code == 200


def test_a_key_has_its_own_concurrency(owners: Owners) -> None:
    owners.keys["eve"] = owners.ring.add("eve", concurrency=1)
    assert owners.client.post("/v1/videos", json=QUICK, headers=owners.as_("eve")).status_code == 200
    answer = owners.client.post("/v1/videos", json=QUICK, headers=owners.as_("eve"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert owners.client.post("/v1/videos", json=QUICK, headers=owners.as_("ann")).status_code == 200


def test_a_browser_logs_in_for_a_cookie_and_out_again(owners: Owners) -> None:
    origin = {"origin": "http://127.0.0.1:8000"}
    answer = owners.client.post("/login", data={"key": owners.keys["ann"]}, headers=origin, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert owners.keys["ann"].lower() not in cookie
    assert owners.client.get("/v1/me").json()["name"] == "ann"
    for wrong in ({}, {"origin": "https://evil.example"}):
        answer = owners.client.post("/v1/videos", json=QUICK, headers=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
    assert owners.client.post("/v1/videos", json=QUICK, headers=origin).status_code == 200
    token = owners.client.cookies["videodit_session"]
    assert owners.client.post("/logout", follow_redirects=False).status_code == 403
    assert owners.client.post("/logout", headers=origin, follow_redirects=False).status_code == 303
    owners.client.cookies.clear()
    assert owners.client.get("/v1/me", headers={"cookie": f"videodit_session={token}"}).status_code == 401


def test_behind_https_the_cookie_is_secure_and_scripts_may_log_in_by_json(owners: Owners) -> None:
    answer = owners.client.post("https://127.0.0.1:8000/login", json={"key": owners.keys["bob"]})
    assert answer.status_code == 204
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_page_without_a_session_leads_to_the_login(owners: Owners) -> None:
    answer = owners.client.get("/v1/videos", headers={"accept": "text/html"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    page = owners.client.get("/login")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text


def test_failed_logins_are_few(owners: Owners) -> None:
    for _ in range(3):
        assert owners.client.post("/login", json={"key": "vd_wrong"}).status_code == 401
    answer = owners.client.post("/login", json={"key": owners.keys["ann"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_logins")
    assert 800 < int(answer.headers["retry-after"]) <= 900
    assert owners.client.get("/v1/me", headers=owners.as_("ann")).status_code == 200


def test_failed_logins_are_forgotten_in_time_and_memory() -> None:
    now = 0.0
    failed = FailedLogins(2, clock=lambda: now)
    for address in map(str, range(20_000)):
        failed.add(address)
    assert len(failed._times) == 10_000
    failed.add("a")
    assert failed.wait("a") == 0
    now = 100.0
    failed.add("a")
    assert failed.wait("a") == 800
    now = 901.0
    assert failed.wait("a") == 0


@pytest.mark.parametrize("body", [b"", b"[]", b'{"key": 1}', b'{"key": ""}', b"x" * 5000])
def test_odd_logins_are_refused(owners: Owners, body: bytes) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        status = owners.client.post("/login", content=body, headers={"content-type": kind}).status_code
        assert status in (400, 401, 413, 429)


def test_a_server_that_had_a_key_never_opens_again(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        assert server.client.get("/v1/videos").status_code == 200
        ring = KeyRing(server.worker.store)
        ring.add("ann")
        assert server.client.get("/v1/videos").status_code == 401
        ring.remove("ann")
        assert server.client.get("/v1/videos").status_code == 401


def test_a_server_that_others_reach_needs_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalServer(tmp_path / "data", host="0.0.0.0") as server:  # as if its last key was removed
        assert server.client.get("/v1/videos").status_code == 401
    assert main(["serve", "--host", "0.0.0.0", "--data", str(tmp_path / "other")]) == 2
    assert "`videodit serve keys add NAME --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_this_machine_reaches_a_loopback_address(tmp_path: Path, host: str, is_local: bool) -> None:
    assert ServerConfig(data=tmp_path, host=host).is_local is is_local


def test_the_command_adds_lists_and_removes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path / "data")]
    assert main(["serve", "keys", "add", "ann", "--concurrency", "2", *data]) == 0
    key = capsys.readouterr().out.strip()
    with sqlite3.connect(tmp_path / "data" / "jobs.sqlite3") as file:
        assert file.execute("SELECT name FROM keys").fetchall() == [("ann",)]
    assert main(["serve", "keys", "list", *data]) == 0
    told = capsys.readouterr().out
    assert "ann" in told
    assert "2 jobs" in told
    assert key not in told
    assert main(["serve", "keys", "add", "ann", *data]) == 2
    assert main(["serve", "keys", "add", "a b", *data]) == 2
    assert main(["serve", "keys", "add", "eve", "--concurrency", "0", *data]) == 2
    assert main(["serve", *data, "keys", "list"]) == 2
    assert main(["serve", "keys", "remove", "ann", *data]) == 0
    assert main(["serve", "keys", "remove", "ann", *data]) == 2
    assert "there is no key 'ann'" in capsys.readouterr().err


def test_limits_are_raised_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from videodit.limits import Limits
    from videodit.serving.config import raised_limits

    server, media = raised_limits(ServerLimits(), Limits(), ["queue=7", "clip_seconds=60", "keep_seconds=0"])
    assert (server.queue, media.clip_seconds, server.keep_seconds) == (7, 60, None)
    for wrong in ("quee=7", "queue=", "queue=0", "queue=-1", "queue=x", "queue"):
        assert main(["serve", "--limit", wrong, "--data", str(tmp_path)]) == 2
        assert "limit" in capsys.readouterr().err
