"""The command `spark-dl`: its arguments, its exit codes, its errors."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spark_dl.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: command"),
        (["docter"], "invalid choice: 'docter'"),
        (["clean"], "required: cache_dir"),
        (["doctor", "--slave", "x"], "unrecognized arguments"),
        (["clean", "a", "b"], "unrecognized arguments: b"),
        (["train"], "required: --from-run"),
        (["ui", "--port", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_end_with_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: spark-dl")
    assert told in error


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("doctor", "clean", "train", "ui"))


def test_clean_tells_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / "spark-dl-left"
    left.mkdir()
    (left / "owner.json").write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    assert main(["clean", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"removed file://{left}\n1 removed.\n"
    assert not left.exists()
    assert main(["clean", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 removed.\n"


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["clean", str(file)]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"spark-dl: Can't list the directory in file://{file}")
    assert error.count("\n") == 1
