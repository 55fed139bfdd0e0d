"""The rules of design: who may import whom, where the big libraries live, what `import spark_dl` loads."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spark_dl

PACKAGE = Path(spark_dl.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Layer -> the layers that it may import, besides itself.
BASE = {
    *(
        "collectives",
        "errors",
        "figures",
        "gc_pause",
        "io",
        "log_values",
        "notebook",
        "options",
        "redaction",
        "spark",
        "world",
    ),
}
ALLOWED = {
    "base": set(),
    "data": {"base"},
    "launch": {"base"},
    "track": {"base"},
    "train": {"base", "data"},
    "score": {"base", "data", "train"},
    "diagnosis": {"base", "launch"},
    "fit": {"base", "data", "launch", "track", "train", "score"},
    "ml": {"base", "data", "launch", "track", "train", "score", "diagnosis", "fit"},
    "mlflow": {"base", "ml", "score", "track"},
    "launcher": {"base", "launch", "track", "train"},
    "cli": {"base", "diagnosis", "ml", "track"},
    "estimators": {"ml"},
    "": {"base", "diagnosis", "fit", "ml", "launcher"},
}
# Library -> the only modules that import it.
OWNERS = {
    "horovod": {"collectives", "launch.fork_server"},
    "petastorm": {"data.readers.petastorm"},
    "mlflow": {"mlflow", "track.flavor", "track.flavor_reading", "track.mlflow", "track.mlflow_writer", "track.runs"},
}


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def type_checking_only(module: str) -> set[ast.AST]:
    """What stands below `if TYPE_CHECKING:`: it is never imported."""
    blocks = (n for n in ast.walk(tree(module)) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imported(module: str, skip: set[ast.AST] | None = None) -> Iterator[str]:
    """The full name of everything that a module imports, also inside functions."""
    for node in ast.walk(tree(module)):
        if skip and node in skip:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str, skip: set[ast.AST] | None = None) -> set[str]:
    """The modules of the package that a module imports, relative to the package."""
    found = set()
    for name in imported(module, skip):
        parts = name.split(".")
        if parts[0] == "spark_dl":
            while ".".join(parts[1:]) not in MODULES:
                parts.pop()
            found.add(".".join(parts[1:]))
    return found


def at_import_time(module: str) -> set[ast.AST]:
    """What runs only when a function is called, or never: to be skipped."""
    functions = (n for n in ast.walk(tree(module)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {inner for function in functions for inner in ast.walk(function)} | type_checking_only(module)


def layer(module: str) -> str:
    first = module.partition(".")[0]
    return "base" if first in BASE else first


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    allowed = ALLOWED[layer(module)] | {layer(module)}
    broken = {name for name in own_imports(module) if layer(name) not in allowed}
    assert not broken, f"spark_dl.{module} may not import {broken}"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    waiting = {module: own_imports(module, at_import_time(module)) - {module} for module in MODULES}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    importing = {module for module in MODULES if any(name.split(".")[0] == library for name in imported(module))}
    assert importing == OWNERS[library]


def test_training_imports_no_pyspark_directly_or_through_others() -> None:
    seen: set[str] = set()
    waiting = [module for module in MODULES if layer(module) == "train"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += own_imports(module, type_checking_only(module))
    assert {"train.loop", "data.batches", "data.shards", "io.store"} <= seen
    assert {module for module in seen if any(name.split(".")[0] == "pyspark" for name in imported(module))} == set()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_reaches_behind_the_dataframe_api(module: str) -> None:
    attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    assert not attributes & {"_jvm", "_jdf", "_jsc", "_jsparkSession", "_jc", "rdd", "parallelize"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_hold_no_mutable_state(module: str) -> None:
    mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    makers = {
        "list",
        "dict",
        "set",
        "deque",
        "defaultdict",
        "Counter",
        "OrderedDict",
        "Lock",
        "local",
        "WeakKeyDictionary",
    }
    for node in tree(module).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in makers
        for target in targets:
            name = ast.unparse(target)
            if isinstance(value, mutable) or made:
                assert name.isupper() or name == "__all__", f"{name} in spark_dl.{module}: tables are in CAPITALS"
    assert not [node for node in ast.walk(tree(module)) if isinstance(node, ast.Global)]


HEAVY = ("tensorflow", "keras", "horovod", "petastorm", "mlflow", "pyspark", "numpy", "pandas", "pyarrow")


@pytest.mark.parametrize(
    ("statement", "may_load"),
    [
        ("import spark_dl", set()),
        ("import spark_dl.cli", set()),
        ("import spark_dl.launch.rank", set()),
        (
            "from spark_dl import KerasClassifier, HorovodLauncher, doctor; KerasClassifier(epochs=2)",
            {"pyspark", "numpy", "pandas", "pyarrow"},
        ),
        ("import spark_dl.score.scoring_model", {"numpy", "pandas", "pyarrow"}),
        ("import spark_dl.train.loop", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
        ("import spark_dl.train.entry", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
        ("import spark_dl.score.assess", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
    ],
)
def test_an_import_loads_no_library_that_it_does_not_need(statement: str, may_load: set[str]) -> None:
    program = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) <= may_load


def test_every_public_name_resolves_and_is_listed() -> None:
    assert set(spark_dl.__all__) == set(spark_dl._PUBLIC)
    for name in spark_dl.__all__:
        assert getattr(spark_dl, name).__name__ == name
        assert name in dir(spark_dl)
    with pytest.raises(AttributeError, match="no attribute 'KerasClasifier'"):
        _ = spark_dl.KerasClasifier


def test_every_module_says_what_it_holds_and_what_it_exports() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "spark_dl."):
        name = info.name.removeprefix("spark_dl.")
        assert ast.get_docstring(tree(name)), f"{name} has no docstring"
        exported = [n for n in tree(name).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
        assert exported or info.ispkg, f"{name} has no __all__"
        if name != "track.mlflow" and exported:
            module = importlib.import_module(info.name)
            assert [n for n in module.__all__ if not hasattr(module, n)] == []


def test_warnings_leave_through_the_function_that_redacts_them() -> None:
    others = [
        name
        for name in MODULES
        if "warnings.warn(" in MODULES[name].read_text(encoding="utf-8") and name != "redaction"
    ]
    assert others == []
