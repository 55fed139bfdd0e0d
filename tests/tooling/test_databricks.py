"""The files of conf/databricks: jobs pass what the commands take, and the init script installs a folder of wheels."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import spark_dl
from spark_dl.cli.command import Command
from spark_dl.cli.commands import COMMANDS
from spark_dl.cli.config import given_values
from spark_dl.cli.fits import read_train_config
from spark_dl.cli.fitted import read_score_config
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import check_settings

FOLDER = Path(__file__).parents[2] / "conf/databricks"
SCRIPT = FOLDER / "install_spark_dl.sh"
CLUSTERS = {path.stem.removeprefix("cluster-"): json.loads(path.read_text()) for path in FOLDER.glob("cluster-*.json")}
BUNDLE = yaml.safe_load((FOLDER / "databricks.yml").read_text())
JOBS = BUNDLE["resources"]["jobs"]


def with_variables(value: Any) -> Any:
    """The value with the defaults of the bundle's variables, each of which must be declared."""
    if isinstance(value, dict):
        return {key: with_variables(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_variables(each) for each in value]
    defaults = {f"${{var.{name}}}": variable["default"] for name, variable in BUNDLE["variables"].items()}
    return re.sub(r"\$\{.*?\}", lambda found: defaults[found[0]], value) if isinstance(value, str) else value


def task_of(job: str) -> dict[str, Any]:
    (task,) = with_variables(JOBS[job]["tasks"])
    return dict(task)


def values_of(job: str) -> dict[str, Any]:
    """The keys that a job's parameters set, parsed by the command that they name."""
    name, *arguments = task_of(job)["spark_python_task"]["parameters"]
    (command,) = [each for each in COMMANDS if each.name == name]
    return given_values(parsed(command, arguments))


def parsed(command: Command, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_bundles_jobs_pass_what_the_commands_take() -> None:
    assert JOBS.keys() == {"train", "score"}
    assert {task_of(job)["spark_python_task"]["python_file"] for job in JOBS} == {"run.py"}
    train, score = values_of("train"), values_of("score")
    config = read_train_config({key: value for key, value in train.items() if key != "model"} | {"model": "os:getcwd"})
    assert config.options["numWorkers"] == task_of("train")["new_cluster"]["num_workers"]
    assert config.options["loss"] == "sparse_categorical_crossentropy"
    assert read_score_config(score).keys.model == train["output"]
    volume = BUNDLE["variables"]["volume"]["default"]
    assert {train[key].partition(f"{volume}/")[0] for key in ("model", "cacheDir", "checkpointDir", "output")} == {""}


def test_the_bundles_cluster_is_the_one_of_cpus() -> None:
    names = {"cluster_name", "autotermination_minutes"}  # of clusters that aren't a job's
    expected = {key: value for key, value in CLUSTERS["17.3-cpu"].items() if key not in names}
    assert task_of("train")["new_cluster"] == expected
    assert task_of("score")["new_cluster"] == {**expected, "spark_conf": {"spark.task.cpus": "1"}}


def test_there_is_a_cluster_for_each_long_supported_release_and_kind_of_processor() -> None:
    assert CLUSTERS.keys() == {"17.3-cpu", "17.3-gpu", "18-cpu", "18-gpu"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_clusters_settings_are_those_that_a_fit_takes(name: str) -> None:
    cluster, (release, kind) = CLUSTERS[name], name.split("-")
    assert cluster["spark_version"].startswith(f"{release}.x-")
    assert (
        ("gpu-ml" in cluster["spark_version"])
        == (kind == "gpu")
        == (cluster["spark_env_vars"]["SPARK_DL_EXTRA"] == "gpu")
    )
    assert cluster["data_security_mode"] == "SINGLE_USER"
    assert "autoscale" not in cluster
    preset = {f"spark.{of}.resource.gpu.amount": "1" for of in ("executor", "task")} if kind == "gpu" else {}
    known = {"spark.master": "spark://10.139.64.4:7077", **preset, **cluster["spark_conf"]}
    check_settings(lambda key, default: known.get(key, default), cluster["num_workers"], LaunchSettings())
    (script,) = cluster["init_scripts"]
    assert Path(script["volumes"]["destination"]).name == SCRIPT.name
    assert Path(cluster["spark_env_vars"]["SPARK_DL_WHEELS"]).parent == Path(script["volumes"]["destination"]).parent


# --- the init script -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as a Volume, with wheels of this checkout and of the Horovod that is installed."""
    wheels = tmp_path_factory.mktemp("files") / "Volumes/main/default/spark_dl/wheels"
    wheels.mkdir(parents=True)
    source = Path(spark_dl.__file__).parent
    metadata = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n{}"
    required = ("numpy>=1.26", "pyspark>=99", "tensorflow-cpu; extra == 'cpu'")
    requirements = "".join(f"Requires-Dist: {each}\n" for each in required)
    pin = f"tensorflow-cpu=={version('tensorflow-cpu')}"
    (wheels / "constraints.txt").write_text(f"# The stack.\n{pin}\npyspark==99\nnumpy==99\n")  # only the first counts
    make_wheel(wheels / "spark_dl-99.0-py3-none-any.whl", source, metadata.format("spark_dl", "99.0", requirements))
    import horovod

    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    built = wheels / f"horovod-0.28.1-{tag}-{tag}-linux_x86_64.whl"
    make_wheel(built, Path(horovod.__file__).parent, metadata.format("horovod", "0.28.1", ""))
    return wheels


def make_wheel(path: Path, package: Path, metadata: str) -> None:
    """A wheel of a package's files, with metadata of its own."""
    name, version, tag = path.stem.split("-", 2)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file in package.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, f"{name}/{file.relative_to(package)}")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


def install(**variables: str) -> subprocess.CompletedProcess[str]:
    unknown = ("SPARK_DL_WHEELS", "SPARK_DL_EXTRA", "SPARK_DL_PYTHON", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in unknown} | variables
    return subprocess.run([SCRIPT], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for a runtime's Python: an environment of its own, over the packages of this one."""
    folder = tmp_path_factory.mktemp("databricks") / "python"
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "runtime.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin/python"


def test_the_init_script_installs_the_wheels_and_leaves_the_runtimes_packages(volume: Path, runtime: Path) -> None:
    ran = install(SPARK_DL_WHEELS=str(volume), SPARK_DL_PYTHON=str(runtime))
    assert ran.returncode == 0, ran.stderr
    site = sysconfig.get_path("purelib", vars={"base": str(runtime.parents[1])})
    # It was imported from the wheel, and Horovod checked. PySpark, which it requires, wasn't asked for.
    assert ran.stdout.splitlines()[-1] == f"install_spark_dl.sh: spark_dl {spark_dl.__version__} in {site}/spark_dl"
    installed = {path.name for path in Path(site).glob("*.dist-info")}
    assert installed == {"spark_dl-99.0.dist-info", "horovod-0.28.1.dist-info"}


def test_what_cannot_be_installed_is_said_with_what_to_do(volume: Path, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "spark_dl-1.0-py3-none-any.whl").touch()
    (tmp_path / "two").mkdir()
    (tmp_path / "two/spark_dl-1.0-py3-none-any.whl").touch()
    (tmp_path / "two/horovod-0.28.1-cp27-cp27m-linux_x86_64.whl").touch()
    cases = {
        "": "SPARK_DL_WHEELS isn't set: set it in the cluster's spark_env_vars",
        f"{tmp_path}/nowhere": f"there is no folder {tmp_path}/nowhere, or this cluster may not read the Volume",
        str(tmp_path): f"{tmp_path} has 0 wheels of horovod, expected 1: make it with scripts/build_wheels.sh",
        f"{tmp_path}/two": "horovod-0.28.1-cp27-cp27m-linux_x86_64.whl isn't for this runtime's Python (cp3",
    }
    for folder, told in cases.items():
        ran = install(SPARK_DL_WHEELS=folder, SPARK_DL_PYTHON=str(runtime))
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith(f"install_spark_dl.sh: {told}")
    ran = install(SPARK_DL_WHEELS=str(volume), SPARK_DL_PYTHON=str(runtime), SPARK_DL_EXTRA="tpu")
    assert (ran.returncode, ran.stderr) == (1, "install_spark_dl.sh: SPARK_DL_EXTRA=tpu: cpu or gpu is expected\n")
