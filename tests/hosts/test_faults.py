"""Faults on a Spark standalone cluster of several hosts: each fit ends with the weights of the undisturbed one.

`pytest tests/hosts -s` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Alone in namespaces of its own, so that the machine's network and processes are out of reach.
ALONE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
RESUMED = ["rank killed", "worker killed", "executor killed", "rank frozen", "network partition", "host crashed"]
MORE = ["one rank", "eight ranks", "another network", "tracked", "submitted"]
ALL = ["none", "a stranger", *RESUMED, "no spare", "no spare, no fewer"]


def run(directory: Path, workers: int, cores: int, faults: list[str]) -> dict[str, Any]:
    """What the controller found: for each fault what became of the fit."""
    alone = ALONE if os.geteuid() == 0 else [*ALONE, "--user", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody but root make network namespaces")
    (directory / "cache").mkdir()
    program = str(Path(__file__).with_name("controller.py"))
    command = [*alone, sys.executable, program, str(directory), str(workers), str(cores), *faults]
    # What tests before have told this process of MLflow isn't what a cluster's hosts know.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-5000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Faults on three hosts with a slot each, of which two train."""
    found = run(tmp_path_factory.mktemp("hosts"), 3, 1, ALL)
    print("\nfault | detected after | training resumed after")
    for fault in [*RESUMED, "no spare"]:
        print(f"{fault} | {found['faults'][fault].get('noticed')} s | {found['faults'][fault].get('trained')} s")
    return found


def test_a_fit_that_nothing_happens_to(outcome: dict[str, Any]) -> None:
    assert outcome["faults"]["none"]["epochs"] == 4
    assert outcome["faults"]["none"]["said"] == []


def test_a_host_that_scans_reads_writes_and_connects_gets_nothing_and_changes_nothing(outcome: dict[str, Any]) -> None:
    after = outcome["faults"]["a stranger"]
    assert after.get("weights") == outcome["faults"]["none"]["weights"], after
    found = after["stranger"]
    # Spark's ports and the driver's are there all the time; the store only while ranks meet (unit/test_rendezvous.py).
    assert found["ports"] > 0
    assert {answer.split()[1] for answer in found["answers"]} <= {"400", "403"}, found
    assert "wrong" not in str(found["answers"])


@pytest.mark.parametrize("fault", RESUMED)
def test_what_is_lost_is_the_work_since_the_last_checkpoint(fault: str, outcome: dict[str, Any]) -> None:
    after, undisturbed = outcome["faults"][fault], outcome["faults"]["none"]
    assert after.get("weights") == undisturbed["weights"], after
    assert after["epochs"] == 4
    (said,) = after["said"]
    assert re.fullmatch(r"In epoch \d: .* Restarting from (step \d+ of|the end of) epoch \d, attempt 2 of 4\.", said)


def test_without_a_spare_training_goes_on_with_fewer_workers_where_that_is_allowed(outcome: dict[str, Any]) -> None:
    after = outcome["faults"]["no spare"]
    assert after.get("epochs") == 4, after
    assert any(line.endswith(", with 1 of 2 workers.") for line in after["said"])


def test_without_slots_the_fit_says_so(outcome: dict[str, Any]) -> None:
    after = outcome["faults"]["no spare, no fewer"]
    assert after["error"] == "SlotsError"
    assert "did not give 2 slots at the same time within 10 s" in after["text"]


def test_nothing_is_left_behind(outcome: dict[str, Any]) -> None:
    assert outcome["processes"] == []
    assert outcome["files"] == []


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four hosts with two slots each."""
    return run(tmp_path_factory.mktemp("more-hosts"), 4, 2, MORE)


def test_eight_ranks_on_four_hosts_do_what_one_does(more: dict[str, Any]) -> None:
    alone, together = more["faults"]["one rank"], more["faults"]["eight ranks"]
    assert together.get("weights") == pytest.approx(alone["weights"], rel=1e-4, abs=1e-6), together
    assert together["said"] == []


def test_a_run_is_written_where_only_the_driver_reaches_the_server_and_knows_the_password(more: dict[str, Any]) -> None:
    found = more["faults"]["tracked"]
    assert (found.get("status"), found.get("steps")) == ("FINISHED", [0, 1, 2, 3]), found


def test_the_ranks_meet_on_the_network_that_they_are_told(more: dict[str, Any]) -> None:
    assert set(more["faults"]["another network"]["interfaces"]) <= {f"back{number}x" for number in range(2, 6)}
    assert more["processes"] == []
    assert more["files"] == []


def test_submit_train_brings_the_packages_to_hosts_that_have_none(more: dict[str, Any]) -> None:
    found = more["faults"]["submitted"]
    assert (found["code"], found["model"]) == (0, True), found["last"]
    assert len({path.split("/")[0] for path in found["unpacked"]}) == 2, found["unpacked"]
    assert found["python_alone"] != 0
