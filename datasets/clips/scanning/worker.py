"""The worker process: it opens files, does one task after the other, and answers in lines of JSON.

:mod:`videodit.datasets.clips.scanning.worker_pool` is the other end of the pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from videodit.datasets.clips.reading.records import Media
from videodit.datasets.clips.scanning.clip_features import extract_features
from videodit.datasets.clips.scanning.messages import ClipRequest, Heartbeat, Reply
from videodit.datasets.clips.scanning.opening import UnusableClip, check_file
from videodit.datasets.clips.scanning.scene_cuts import find_cuts
from videodit.limits import Limits, use_limits


def main() -> None:
    """Answer the requests on stdin until it is closed, which ends the process whatever it is doing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which kills this process
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def send(reply: Mapping[str, object]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    send({})
    while True:
        send(answer(json.loads(requests.get()), lambda: send({})))


def _listen(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone; the file that the main thread reads may never end


def answer(request: ClipRequest, beat: Heartbeat) -> Reply:
    """Do a task: a value, or the reason why there is none and whether it lasts.

    Args:
        request: the task, where the file is, and what the task needs.
        beat: called in long work, to show that it goes on.
    """
    media = Media(Path(request["path"]), request["offset"], request["size"])
    try:
        check_file(media)
        with use_limits(Limits(**request["bounds"])) if "bounds" in request else contextlib.nullcontext():
            if request["task"] == "look":
                return {"value": extract_features(media, request, beat)}
            return {"value": find_cuts(media, request, beat)}
    except UnusableClip as error:
        return {"reason": str(error), "lasting": error.lasting}
    except OSError as error:
        return {"reason": f"cannot be read: {error.strerror or error}", "lasting": False}
