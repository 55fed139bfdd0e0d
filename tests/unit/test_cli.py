"""The command `spark-dl`: its arguments, its exit codes, its errors."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest

import spark_dl
from spark_dl.cli import main
from spark_dl.cli.commands import COMMANDS
from spark_dl.cli.commands.ui import answers
from spark_dl.cli.output import json_log
from spark_dl.fit.progress import Progress
from spark_dl.train.reports import Speed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["docter"], "invalid choice: 'docter'"),
        (["clean"], "required: cache_dir"),
        (["doctor", "--slave", "x"], "unrecognized arguments"),
        (["clean", "a", "b"], "unrecognized arguments: b"),
        (["train", "--datas", "x", "y", "z"], "unrecognized arguments"),
        (["ui", "--port", "x"], "invalid int value: 'x'"),
        (["new"], "required: DIR"),
    ],
)
def test_wrong_arguments_end_with_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: spark-dl")
    assert message in error


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_names_the_exit_codes_and_all_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"] if command else ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes: 0 success, 1 fault, 2 wrong usage" in text
    if not command:
        assert [known.name for known in COMMANDS if f"    {known.name} " not in text] == []


def test_clean_prints_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / "spark-dl-left"
    left.mkdir()
    (left / "owner.json").write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    assert main(["clean", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"removed file://{left}\n1 removed.\n"
    assert not left.exists()
    assert main(["clean", str(tmp_path), "--log-json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["removed"]) == ("cleaned", [])


def test_a_fault_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["clean", str(file)]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"spark-dl: Can't list the directory in file://{file}")
    assert error.count("\n") == 1


def test_a_traceback_is_shown_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", f"{tmp_path}/missing", "--traceback", "--log-json"]) == 1
    out, error = capsys.readouterr()
    assert error.startswith("Traceback (most recent call last)")
    line = json.loads(out)
    assert (line["event"], line["exit_code"]) == ("error", 1)
    assert line["message"].startswith("There is no such directory.")


def test_path_is_a_program_that_hides_no_module_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path"]) == 0
    program = capsys.readouterr().out.strip()
    run = [sys.executable, program]
    told = subprocess.run([*run, "--version"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert told.stdout == f"spark_dl {spark_dl.__version__}\n", told.stderr
    # The package has modules of these names, too.
    (tmp_path / "config.py").write_text("build = 'the module of the working directory'")
    command = [*run, "train", "--model", "config:build", "--data", "x"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 2
    assert "model isn't a reference to a function." in ran.stderr


def test_progress_is_json_lines_while_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    speed = Speed(rows_per_second=1.0, step_ms=2.5)
    before = logging.getLogger("spark_dl").handlers[:]
    with json_log(), Progress(0, epochs=2, steps=4) as progress:
        progress.show("Training on ftp://user:S3CRET@host/rows")
        progress.epoch(0, {"loss": 0.25, "f1_score": [0.5, float("nan")]}, speed)
        warnings.warn("the cache is slow", RuntimeWarning, stacklevel=1)
    assert logging.getLogger("spark_dl").handlers == before
    out, error = capsys.readouterr()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["info", "epoch", "warning"]
    assert lines[0]["message"] == "Training on ftp://***@host/rows"
    assert lines[1]["epoch"] == 1
    assert lines[1]["metrics"] == {"loss": 0.25, "f1_score": [0.5, None]}
    assert lines[1]["speed"] == {name: value for name, value in asdict(speed).items() if name != "ranks"}
    assert "the cache is slow" in lines[2]["message"]
    assert error == ""


def test_new_writes_into_no_directory_that_has_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["new", str(tmp_path)]) == 1
    assert "DIR isn't empty." in capsys.readouterr().err
    assert main(["new", f"{tmp_path}/mine.txt/below"]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_ui_opens_the_page_of_a_remote_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri("https://user:S3CRET@mlflow.example.com")
        assert main(["ui", "--no-browser"]) == 0
        assert capsys.readouterr().out == "https://***@mlflow.example.com\n"
        mlflow.set_tracking_uri("databricks")
        monkeypatch.setenv("DATABRICKS_HOST", "https://shop.cloud.databricks.com/")
        assert main(["ui", "--no-browser"]) == 0
        assert capsys.readouterr().out == "https://shop.cloud.databricks.com/ml/experiments\n"
        monkeypatch.delenv("DATABRICKS_HOST")
        assert main(["ui", "--no-browser"]) == 1
        assert "DATABRICKS_HOST" in capsys.readouterr().err
    finally:
        mlflow.set_tracking_uri(before)


def test_ui_waits_for_the_page_and_not_for_a_server_that_has_ended() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            assert answers(address, server)
        finally:
            server.terminate()
    assert not answers(address, server)


def test_a_server_and_what_it_started_end_with_the_command() -> None:
    server = "import subprocess as s; s.run(['sh', '-c', 'echo started; exec sleep 600'])"
    program = (
        "import sys; from spark_dl.cli.commands.ui import served\n"
        f"with served([sys.executable, '-c', {server!r}]) as process: process.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"started\n"
        command.send_signal(signal.SIGTERM)
        command.communicate(timeout=60)  # until no process holds its standard output
    assert command.returncode == 128 + signal.SIGTERM
