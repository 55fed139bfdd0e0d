"""The command lines that scripts/submit_train.sh and submit_score.sh build, and what they refuse."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU = {
    "spark.dynamicAllocation.enabled=false",
    "spark.python.daemon.module=spark_dl.spark.python_daemon",
    "spark.executor.memoryOverhead=2g",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a package of the name."""
    folder = tmp_path_factory.mktemp("environments").resolve() / "shop"
    venv.create(folder, symlinks=True)
    package = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}), "spark_dl")
    package.mkdir()
    (package / "__init__.py").touch()
    return folder


def submit(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [ROOT / f"scripts/submit_{command}.sh", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


def built(command: str, *arguments: str) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each option of spark-submit, and the words from the program on."""
    ran = submit(command, *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    first, *words = shlex.split(ran.stdout)
    assert first == "spark-submit"
    options: dict[str, list[str]] = {}
    while words[0].startswith("--"):
        options.setdefault(words[0], []).append(words[1])
        words = words[2:]
    return options, words


def test_standalone(environment: Path) -> None:
    arguments = [
        "--conf",
        "spark.cores.max=2",
        "--conf",
        "spark.app.name=a shop",
        "conf/train.yaml",
        "--set",
        "epochs=2",
    ]
    options, words = built(
        "train", "--master", "spark://h:7077", "--environment", str(environment), "--dry-run", *arguments
    )
    assert (options["--master"], options["--deploy-mode"]) == (["spark://h:7077"], ["client"])
    assert options["--archives"] == [f"file://{environment}.tar.gz#environment"]
    assert set(options["--conf"]) == CPU | {
        "spark.pyspark.python=./environment/bin/python",
        f"spark.pyspark.driver.python={environment}/bin/python",
        "spark.cores.max=2",
        "spark.app.name=a shop",
    }
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    assert words == [f"{site}/spark_dl/cli/__main__.py", "train", "conf/train.yaml", "--set", "epochs=2"]


def test_yarn_in_cluster_mode(environment: Path) -> None:
    archive = "hdfs:///environments/shop.tar.gz"
    arguments = [
        "--environment",
        str(environment),
        "--archive",
        archive,
        "--deploy-mode",
        "cluster",
        "--gpu",
        "--dry-run",
    ]
    options, words = built("score", "--master", "yarn", *arguments, "conf/score.yaml")
    assert options["--archives"] == [f"{archive}#environment"]
    assert options["--files"] == ["conf/score.yaml"]
    settings = dict(setting.split("=", 1) for setting in options["--conf"])
    assert settings["spark.executor.resource.gpu.amount"] == "1"
    assert settings["spark.yarn.appMasterEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    assert "spark.pyspark.driver.python" not in settings
    assert words[1:] == ["score", "score.yaml"]


def test_kubernetes_needs_no_environment_here() -> None:
    arguments = ["--image", "shop:1", "--deploy-mode", "cluster", "--dry-run", "conf/train.yaml"]
    options, words = built("train", "--master", "k8s://https://h:443", *arguments)
    assert "--archives" not in options
    assert set(options["--conf"]) == CPU | {
        "spark.kubernetes.container.image=shop:1",
        "spark.pyspark.python=/opt/spark_dl/bin/python",
    }
    assert words == ["local:///opt/spark_dl/spark-dl.py", "train", "train.yaml"]


def test_an_archives_path_reaches_spark_as_a_url(environment: Path) -> None:
    arguments = ["--environment", str(environment), "--dry-run", "--archive"]
    options, _ = built("train", "--master", "yarn", *arguments, "/envs/a b#1 50%.tar.gz", "train.yaml")
    assert options["--archives"] == ["file:///envs/a%20b%231%2050%25.tar.gz#environment"]
    ran = submit("train", "--master", "yarn", *arguments, "/envs/a,b.tar.gz", "train.yaml")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("submit_train.sh: Spark can't send the archive /envs/a,b.tar.gz")


def test_a_missing_configuration_is_named_before_anything_is_packed(environment: Path, tmp_path: Path) -> None:
    archive, missing = tmp_path / "shop.tar.gz", tmp_path / "train.yaml"
    arguments = ["--environment", str(environment), "--archive", str(archive), str(missing)]
    ran = submit("train", "--master", "spark://h:7077", *arguments)
    assert (ran.returncode, ran.stdout, archive.exists()) == (1, "", False)
    assert ran.stderr == f"submit_train.sh: there is no configuration {missing}, or it can't be read\n"
    # In cluster mode Spark takes a URL, so that the next thing that is missing is named.
    arguments = ["--deploy-mode", "cluster", "--environment", str(tmp_path), "hdfs://h/train.yaml"]
    ran = submit("train", "--master", "yarn", *arguments)
    assert ran.stderr.startswith("submit_train.sh: there is no Python environment")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no CONFIG.yaml"),
        (["train.yaml"], "no --master"),
        (["--master", "local[2]", "train.yaml"], "--master is spark://HOST:PORT, yarn or k8s://URL, not local[2]"),
        (["--master"], "--master needs a value"),
        (["--set", "epochs=2", "train.yaml"], "unknown argument: --set; those of spark-dl follow CONFIG.yaml"),
        (["--master", "k8s://h", "train.yaml"], "Kubernetes needs --image, see conf/docker"),
        (["--master", "yarn", "--image", "x", "train.yaml"], "--image is for Kubernetes"),
        (
            ["--master", "spark://h:1", "--deploy-mode", "cluster", "x"],
            "Spark's standalone clusters run Python in client mode only",
        ),
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(arguments: list[str], reason: str) -> None:
    ran = submit("train", *arguments)
    usage = f"usage: scripts/submit_train.sh --master URL [options] CONFIG.yaml ({reason})\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", usage)


def test_an_environment_that_executors_could_not_use_is_refused(environment: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    venv.create(tmp_path / "editable", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "editable")}))
    (site / "clone.pth").write_text(f"{ROOT}\n")
    for name, told in {
        "nowhere": "there is no Python environment",
        "empty": "has no spark_dl: install its wheel there",
        "editable": f"is a clone's, {ROOT}/spark_dl/cli/__main__.py: install its wheel there",
    }.items():
        ran = submit("score", "--master", "yarn", "--environment", str(tmp_path / name), "--dry-run", "score.yaml")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith("submit_score.sh: ")
        assert told in ran.stderr
