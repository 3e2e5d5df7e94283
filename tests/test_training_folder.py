"""A run's folder holds what is the run's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from videodit.errors import InputError
from videodit.training.config import load_config
from videodit.training.folder import check_output, claim_output


def test_somebody_else_s_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my own notes", encoding="utf-8")
    with pytest.raises(InputError, match=r"files of something else, .*: README\.md; name an empty or a new folder"):
        check_output(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "README.md" / "out")


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    check_output(tmp_path / "out")
    claim_output(tmp_path / "out")
    (tmp_path / "out" / "README.md").touch()
    check_output(tmp_path / "out")


def test_an_unknown_key_has_close_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key train\.step; did you mean train\.steps"):
        load_config("mini-lora", ["output=out", "train.step=4"])
