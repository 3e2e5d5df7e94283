"""`--server URL`: the same commands, with the clip made by a server.

Files are sent, the clip is fetched into the same output, and Ctrl-C cancels the job. The key, where the server wants
one, is in the environment variable ``VIDEODIT_API_KEY``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from videodit.cli import results
from videodit.cli.common import count_of, file_size, note, print_rows, printable
from videodit.cli.flags import ClipFlags
from videodit.cli.orders import Order, named
from videodit.cli.output_files import check_order, check_output, check_outputs_differ
from videodit.cli.progress import show_progress
from videodit.cli.server_client import FORMATS, Server
from videodit.cli.stopping import when_stopped
from videodit.cli.takes import takes_of
from videodit.cli.typed_names import as_typed
from videodit.control.control import MEDIA, to_json
from videodit.control.references import Reference
from videodit.errors import InputError, RemoteError
from videodit.json_types import JsonObject
from videodit.pipelines.conditions import Edit, Frames, Region
from videodit.pipelines.prompt_expansion import expand_request
from videodit.pipelines.request import Request
from videodit.pipelines.storyboard import Storyboard

_LOCAL = ("device", "dtype", "limit", "lora_folder", "offload", "vae_tiling", "preview", "profile", "show_control",
          "text_encoder", "vae")  # fmt: skip
"""Flags that are about the machine that makes the clip."""
_PATHS = {"create": "/v1/videos", "edit": "/v1/videos/edits", "extension": "/v1/videos/extensions"}


def check_flags(flags: ClipFlags) -> None:
    """See that a server can do what the flags say; it cannot do all that this machine can.

    Raises:
        InputError: naming the flag that it cannot honour.
    """
    wanted = results.current()
    for flag, said in (("--sheet", wanted.sheet is not None), ("--open", wanted.open_result)):
        if flags.detach and said:
            raise InputError(f"{flag} needs the finished clip, for which --detach does not wait; leave one of them out")
    if flags.control_model:
        raise InputError(
            f"--control-model is {flags.control_model[0]!r}, a folder of this machine; with --server --control goes to "
            "the branches that the server has (`videodit jobs models --json`)"
        )
    for name in _LOCAL:
        flag = f"--{name.replace('_', '-')}"
        if getattr(flags, name):
            raise InputError(f"{flag} is about this machine, and --server makes the clip on another; leave {flag} out")
    if os.path.exists(flags.model) and ("/" in flags.model or "\\" in flags.model):
        raise InputError(
            f"--model is {flags.model!r}, a folder of this machine; with --server it must be a name that the server "
            "knows (`videodit jobs models`)"
        )
    for text in flags.lora or ():
        if "/" in text or "\\" in text or os.path.exists(text.rpartition(":")[0] or text):
            raise InputError(
                f"--lora is {text!r}, a file of this machine; with --server it must be a name that the server knows "
                "(`videodit jobs loras`)"
            )


def body_of(request: Request, server: Server | None) -> JsonObject:
    """A request as a server takes it; its files are sent, or left out where there is no server to take them.

    Raises:
        InputError: what a server cannot be asked for.
    """
    loras = request.loras
    request, notices = expand_request(request)
    for notice in notices:
        note(notice)
    if request.loras != loras:
        raise InputError("the prompt calls a LoRA, and with --server LoRAs are called by --lora NAME:WEIGHT alone")
    if request.has_weights:
        raise InputError("weights of words, as in (word:1.2), are not sent to a server; leave them out")
    prompt, scenes = request.prompt, None
    if isinstance(prompt, Storyboard):
        scenes = [list(scene) for scene in prompt.scenes]
        prompt = None
    body: JsonObject = {
        "prompt": prompt,
        "storyboard": scenes,
        "negative_prompt": request.negative_prompt,
        "model": request.model,
        "seconds": request.seconds,
        "num_frames": request.num_frames,
        "fps": request.fps,
        "size": None if request.width is None else f"{request.width}x{request.height}",
        "seed": request.seed,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "guidance_scale_2": request.guidance_scale_2,
        "stagger": request.stagger or None,
        "stagger_block": request.stagger_block if request.stagger_block != 1 else None,
        "lora": [{"name": one.source, "weight": 1.0 if one.weight is None else one.weight} for one in loras] or None,
        "accelerate": request.acceleration,
        "fit": request.fit if request.fit != "crop" else None,
        "loop": request.loop or None,
    }
    if server is not None:
        for field, medium in (("input_reference", request.image), ("last_reference", request.last_image)):
            if medium is not None:
                body[field] = {"id": server.upload(Path(medium))}
        if request.conditions:
            body["conditions"] = [_condition(one, server) for one in request.conditions]
        if request.references:
            body["references"] = [_reference(one, server) for one in request.references]
    if server is not None or not request.references:
        body["reference_layout"] = request.reference_layout
        body["reference_guidance"] = request.reference_guidance
    if request.control:
        body["control"] = _control(request.control, server)
    return {name: value for name, value in body.items() if value is not None}


def _control(control: Mapping[str, object], server: Server | None) -> JsonObject:
    """Controls as a server takes them; without a server those that come from files are left out."""
    found = to_json(control)
    for slot, said in list(found.items()):
        media = [name for name in MEDIA if name in said]
        if media and server is None:
            del found[slot]
            continue
        for name in media:
            said[name] = {"id": server.upload(Path(said[name]))}  # type: ignore[union-attr]
    return found


def _reference(reference: Reference, server: Server) -> JsonObject:
    return {
        "source": {"id": server.upload(Path(reference.source))},  # type: ignore[arg-type]
        "role": reference.role,
        "at": reference.at or None,
    }


def _condition(condition: Frames | Region | Edit, server: Server) -> JsonObject:
    kind = {Frames: "frames", Region: "region", Edit: "edit"}[type(condition)]
    values: JsonObject = {"kind": kind}
    for name, value in vars(condition).items():
        values[name] = {"id": server.upload(Path(value))} if name in ("content", "clip", "mask") else value
    return values


def run_remote(
    orders: Sequence[Order],
    flags: ClipFlags,
    *,
    task: Literal["create", "edit", "extension"] = "create",
    files: Mapping[str, Path] | None = None,
    extra: JsonObject | None = None,
) -> None:
    """Have a server make the clips of orders, one after the other, and fetch them. ``--count`` makes takes of one.

    Args:
        orders: what to make.
        flags: of the command, among them the server.
        task: what is asked for; see docs/serving.md.
        files: that the clips start from, by the names of the API's fields.
        extra: fields beside those of the requests.

    Raises:
        InputError: an output that cannot be written, or what the server refuses.
        RemoteError: the server failed or cannot be reached.
    """
    assert flags.server is not None
    orders = takes_of(orders, results.current().count)
    for order in orders:
        with named(order):
            _check_place(order)
    check_outputs_differ(orders)
    with contextlib.closing(Server(flags.server)) as server:
        jobs = []
        for order in orders:  # all are taken before the first is waited for
            with named(order):
                body = body_of(order.request, None if flags.dry_run else server) | (extra or {})
                body |= {field: {"id": server.upload(path)} for field, path in (files or {}).items()}
                if flags.dry_run:
                    _describe(server.call("POST", "/v1/videos/plan", json=body | {"task": task}))
                    continue
                key = secrets.token_hex(16)  # a request that is sent again makes no second clip
                jobs.append(server.call("POST", _PATHS[task], json=body, headers={"Idempotency-Key": key}))
            for notice in jobs[-1]["notices"]:
                note(printable(as_typed(notice)))
        for order, job in zip(orders, jobs, strict=False):
            if flags.detach:
                results.emit("job", job=job)
                print(printable(f"{job['id']}: seed {job['seed']}"))
                note(f"`{server.download_command(job['id'], order.output)}` fetches the clip")
            else:
                _fetch(server, order, job, [one["id"] for one in jobs])


def _check_place(order: Order) -> None:
    if order.output == results.STDOUT:
        raise InputError("-o - does not go together with --server; name a file")
    if order.output.suffix.lower() not in FORMATS:
        raise InputError(f"--output is {str(order.output)!r}; with --server it must end in {', '.join(FORMATS)}")
    results.check_format(order.output)
    check_order(order, results.current().sheet)
    check_output(order.output, inputs=order.inputs, overwrite=order.overwrite)


def _fetch(server: Server, order: Order, job: JsonObject, all_ids: Sequence[str]) -> None:
    started = time.monotonic()
    note(f"seed {job['seed']}; the server calls the clip {job['id']}")
    with _cancelled_by_stop(server, all_ids), show_progress() as progress:
        job = server.wait(job["id"], progress)
        if job["status"] == "failed":
            error = job["error"] or {}
            message = printable(str(error.get("message")))
            kind = InputError if error.get("code") in ("invalid_value", "model_error") else RemoteError
            raise kind(f"the server could not make {job['id']}: {message}")
        progress.stage("fetching the clip")
        server.download(job["id"], order.output)
    seconds = time.monotonic() - started
    size = order.output.stat().st_size
    settings = job["settings"]
    results.current().made.append((order.output, job["seed"]))
    results.emit("clip", output=order.output, files=[order.output], bytes=size, seconds_taken=seconds, job=job)
    told = (
        f"{order.output}: {job['size']}, {count_of(settings['num_frames'], 'frame')} at {settings['fps']:g} fps, "
        f"{file_size(size)}, seed {job['seed']}, made in {seconds:.1f} s"
    )
    print(printable(told), flush=True)


@contextlib.contextmanager
def _cancelled_by_stop(server: Server, ids: Sequence[str]) -> Iterator[None]:
    """Ctrl-C in the block cancels the jobs that are not finished."""

    def cancel() -> str:
        for id in ids:
            with contextlib.suppress(InputError, RemoteError):
                server.call("POST", f"/v1/videos/{id}/cancel")
        return f"the server was asked to cancel {', '.join(ids)}"

    with when_stopped(cancel):
        yield


def _describe(planned: JsonObject) -> None:
    results.emit("plan", plan=planned)
    rows = [(name, value) for name, value in (planned.get("settings") or {}).items() if value is not None]
    print_rows([*rows, *(("notice", printable(notice)) for notice in planned.get("notices") or [])])
