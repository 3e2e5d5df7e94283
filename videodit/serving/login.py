"""How browsers come in: a page that takes a key, for a cookie that no script and no other site can use."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from videodit.serving.bodies import parse_json
from videodit.serving.documented import ERRORS
from videodit.serving.errors import APIError
from videodit.serving.gate import COOKIE
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(responses=ERRORS)
State = Annotated[ServerState, Depends(state_of)]
_MOST_BYTES = 4096
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>videodit: log in</title>
<link rel="stylesheet" href="/page/style.css">
<link rel="stylesheet" href="/page/library.css"></head>
<body>
<header><h1>videodit</h1></header>
<main class="login"><form method="post" action="login" class="make">
<div class="field"><label for="key">Key</label><input id="key" name="key" type="password"
 autocomplete="current-password" required autofocus></div>
<div class="row end"><button class="main">Log in</button></div>
</form></main>
</body>
</html>
"""
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "object", "required": ["key"], "properties": {"key": {"type": "string"}}}}
            for kind in ("application/x-www-form-urlencoded", "application/json")
        },
    }
}


@router.get("/login", response_class=HTMLResponse)
async def login_page() -> Any:
    """A page that asks for a key."""
    return HTMLResponse(_PAGE)


@router.post("/login", openapi_extra=_BODY)
async def log_in(request: Request, state: State) -> Any:
    """Give a key for a session's cookie: from a page's form, which is led to ``/``, or as JSON."""
    address = "" if request.client is None else request.client.host
    if wait := state.failed_logins.wait(address):
        raise APIError(429, "too many failed logins", code="too_many_logins", headers={"Retry-After": str(wait)})
    is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    key = state.keys.find(_key_of(await request.body(), is_form))
    if key is None:
        state.failed_logins.add(address)
        raise APIError(401, "there is no such key", code="invalid_api_key")
    seconds = state.config.limits.session_seconds
    answer: Response = RedirectResponse("/", 303) if is_form else Response(status_code=204)
    answer.set_cookie(
        COOKIE,
        state.keys.open_session(key.name, seconds),
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request, state: State) -> Any:
    """End a session."""
    if token := request.cookies.get(COOKIE):
        state.keys.close_session(token)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


@router.get("/v1/me")
async def me(owner: Annotated[str, Depends(owner_of)]) -> Any:
    """Whose key this is."""
    return {"object": "owner", "name": owner}


def _key_of(body: bytes, is_form: bool) -> str:
    """The field ``key``.

    Raises:
        APIError: a body of another form.
    """
    if len(body) > _MOST_BYTES:
        raise APIError(413, "this is too long for a key", code="too_large")
    if is_form:
        return parse_qs(body.decode("latin-1")).get("key", [""])[0].strip()
    values = parse_json(body or b"{}")
    if not isinstance(values, dict) or not isinstance(values.get("key"), str):
        raise APIError(400, 'send the key as {"key": …}', code="invalid_value", param="key")
    return str(values["key"]).strip()
