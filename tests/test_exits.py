"""How commands end: exit codes by kind of error, signals, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from videodit.cli.boundary import as_known, run
from videodit.cli.main import main
from videodit.cli.stopping import kept_of_training, newest_checkpoint, signals_call, when_stopped
from videodit.errors import InputError, InternalError, ModelError, OutOfMemory, Stopped
from videodit.files import FolderLock, _hidden_name, replacing, sole_maker, write_whole
from videodit.training.signals import StopSignals


def failing(error: BaseException) -> int:
    def work() -> None:
        raise error

    return run(work)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such thing"), 2, "error: no such thing"),
        (ModelError("damaged"), 3, "error: damaged"),
        (OutOfMemory("too large"), 4, "error: too large"),
        (MemoryError(), 4, "error: not enough memory: use a smaller size"),
        (RuntimeError("CUDA out of memory. Tried to"), 4, "error: not enough memory"),
        (torch.OutOfMemoryError("no room"), 4, "error: not enough memory"),
        (InternalError("odd"), 70, "error: odd"),
        (KeyError("x"), 70, "error: a bug in videodit: KeyError: 'x'; the same command with --debug shows where"),
        (OSError(28, "No space left on device", "a.mp4"), 2, "error: 'a.mp4': No space left on device; make room"),
        (RecursionError("deep"), 2, "error: a file or a setting is nested too deeply"),
        (KeyboardInterrupt(), 130, ""),
        (Stopped(signal.SIGTERM, "stopped at step 3"), 143, "stopped at step 3"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_each_kind_of_error_has_an_exit_code_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr("videodit.cli.boundary._discard_output", lambda: None)
    assert failing(error) == code
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == (1 if message else 0)


def test_an_error_of_another_library_is_a_bug() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2).reshape(3)
    assert isinstance(as_known(caught.value), InternalError)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_removes_the_hidden_file(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def work() -> None:
        with replacing(tmp_path / "clip.mp4") as partial:
            partial.write_bytes(b"half")
            os.kill(os.getpid(), number)

    assert run(work) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


HEEDED: dict[str, Callable[[Callable[[int], object]], contextlib.AbstractContextManager[object]]] = {
    "a command": lambda noted: contextlib.nullcontext(),
    "a training": StopSignals,
    "a launcher": signals_call,
}


@pytest.mark.parametrize("heed", HEEDED)
def test_a_terminal_that_closes_stops_nothing_under_nohup(heed: str) -> None:
    """`nohup` has SIGHUP ignored; SIGTERM is heeded all the same."""
    noted: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def work() -> None:
        with HEEDED[heed](noted.append):
            os.kill(os.getpid(), signal.SIGHUP)
            if heed != "a command":
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        assert run(work) == 0
        assert noted == ([] if heed == "a command" else [signal.SIGTERM])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_says_what_is_kept_unless_it_says_something_already() -> None:
    asked = list[int]()

    def kept() -> str:
        asked.append(1)
        return "3 clips are kept"

    for error, number, message in (
        (KeyboardInterrupt(), signal.SIGINT, "stopped: 3 clips are kept"),
        (Stopped(signal.SIGTERM), signal.SIGTERM, "stopped: 3 clips are kept"),
        (Stopped(signal.SIGTERM, "stopped at step 3"), signal.SIGTERM, "stopped at step 3"),
    ):
        with pytest.raises(Stopped) as caught, when_stopped(kept):
            raise error
        assert (caught.value.number, str(caught.value)) == (number, message)
    assert len(asked) == 2
    with pytest.raises(InputError, match=r"^odd$"), when_stopped(kept):
        raise InputError("odd")
    with pytest.raises(Stopped, match=r"^stopped: all of it is kept$"), when_stopped("all of it is kept"):
        raise KeyboardInterrupt
    with when_stopped(kept):
        pass
    assert len(asked) == 2  # where nothing is stopped, nobody asks


def test_signals_call_a_function_in_the_main_thread_and_are_as_before_behind_it() -> None:
    got, before = list[int](), signal.getsignal(signal.SIGTERM)
    with signals_call(got.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert got == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(InputError, match="odd"), signals_call(got.append):
        raise InputError("odd")
    assert signal.getsignal(signal.SIGTERM) is before
    seen = list[object]()

    def elsewhere() -> None:
        with signals_call(got.append):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    """A copy that somebody called otherwise, and a folder whose saving was cut short, are none."""
    assert newest_checkpoint(tmp_path) is None
    assert kept_of_training(tmp_path) == "nothing was trained yet"
    for name in ("step-00000005", "step-00000040", "step-100000000", "step-100000000-copy", "step-last", ".saving-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "step-100000000":
            (tmp_path / "checkpoints" / name / "checkpoint.json").touch()
    (tmp_path / "checkpoints" / "step-00000099").touch()
    newest = tmp_path / "checkpoints" / "step-00000040"
    assert newest_checkpoint(tmp_path) == newest
    assert kept_of_training(tmp_path) == f"{newest} is kept"
    (tmp_path / "checkpoints" / "step-100000000" / "checkpoint.json").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-100000000"


def test_hidden_files_of_dead_processes_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _hidden_name()
    dead = own.replace(f"-{os.getpid()}-", "-4194305-")  # beyond the highest number of a process
    parent = own.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    elsewhere = ".videodit-00000000-4194305-00000000.part"
    for name in (dead, parent, elsewhere, ".videodit-mine.part", "notes.part"):
        (tmp_path / name).touch()
    write_whole(tmp_path / "new.json", b"{}")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {parent, elsewhere, ".videodit-mine.part", "notes.part", "new.json"}


def test_an_error_names_the_target_and_not_the_hidden_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "a.json", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a.json")


def test_one_process_at_a_time_makes_a_file(tmp_path: Path) -> None:
    first, second = sole_maker(tmp_path / "a.mp4"), sole_maker(tmp_path / "b.mp4")
    message = r"another process is making .*a\.mp4"
    with first, second, pytest.raises(InputError, match=message), sole_maker(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
    with sole_maker(tmp_path / "a.mp4"):
        pass


def test_a_folder_s_lock_ends_when_it_is_closed(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "new")
    with pytest.raises(InputError, match="another process is writing into"):
        FolderLock(tmp_path / "new")
    lock.close()
    FolderLock(tmp_path / "new").close()


def test_a_file_that_is_no_calibration_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    assert main(["calibrate", "-m", "mini", "-o", str(notes)]) == 2
    assert "exists and is not a calibration" in capsys.readouterr().err
    assert notes.read_text() == '{"mine": 1}'
