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
        "_compat",
        "collectives",
        "errors",
        "figures",
        "gc_pause",
        "installed",
        "io",
        "log_values",
        "notebook",
        "options",
        "quiet",
        "redaction",
        "spark",
        "wire",
        "world",
    ),
}
ALLOWED = {
    "base": set(),
    "data": {"base"},
    "launch": {"base"},
    "track": {"base"},
    "train": {"base", "data", "layers"},
    "score": {"base", "data", "train"},
    "diagnosis": {"base", "launch"},
    "fit": {"base", "data", "launch", "track", "train", "score"},
    "ml": {"base", "data", "launch", "track", "train", "score", "diagnosis", "fit"},
    "mlflow": {"base", "ml", "score", "track"},
    "launcher": {"base", "launch", "track", "train"},
    "media": {"base", "data"},
    "callbacks": {"base"},
    "cli": {"", "base", "diagnosis", "launch", "ml", "track"},
    "estimators": {"ml"},
    "explain": {"base", "launch", "ml", "score", "data", "train"},
    "first_model": {"base", "data"},
    "federated": {"base", "data", "fit", "launch", "ml", "train"},
    "layers": {"base"},
    "privacy": {"base", "fit", "ml", "train"},
    "streaming": {"base", "data", "fit", "launch", "ml", "score", "track", "train"},
    "tune": {"base", "data", "fit", "launch", "ml", "track", "train"},
    "": {"base", "diagnosis", "first_model", "fit", "ml", "launcher"},
}
# Library -> the only modules that import it.
OWNERS = {
    "av": {"data.video"},
    "horovod": {"collectives", "launch.fork_server"},
    "ai_edge_litert": {"score.engines"},
    "onnxruntime": {"score.engines"},
    "petastorm": {"_compat.petastorm"},
    "optuna": {"tune", "tune.objective", "tune.search", "tune.space", "tune.study", "tune.trials"},
    "mlflow": {
        *("_compat.mlflow", "mlflow", "track.flavor", "track.flavor_reading", "track.mlflow", "track.mlflow_writer"),
        *("track.registry", "track.runs"),
    },
}
# Modules of the libraries that aren't part of their documented API.
INTERNAL = (
    *("keras.src", "mlflow.store", "mlflow.tracking.context", "mlflow.tracking.fluent", "mlflow.utils"),
    *("pyspark.daemon", "pyspark.ml.connect", "pyspark.sql.connect", "pyspark.sql.pandas", "pyspark.worker"),
    "tensorflow.python",
)
# Private names that are documented: of Python, and of Spark ML for those who write stages.
DOCUMENTED = {"_current_frames", "_exit", "_asdict", "_fields", "_replace"} | {
    "_copyValues",
    "_resetUid",
    "_set",
    "_setDefault",
}


def in_compat(module: str) -> bool:
    return module.partition(".")[0] == "_compat"


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


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
    """Neither when they are imported, nor within functions, nor for types only."""
    waiting = {module: own_imports(module) - {module} for module in MODULES}
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
    # The kinds of columns have methods for Spark, which no rank calls (see tests/spark/test_starts.py).
    skipped = {module: at_import_time(module) if module.startswith("data.columns") else None for module in seen}
    importing = (m for m in seen if any(name.split(".")[0] == "pyspark" for name in imported(m, skipped[m])))
    assert set(importing) == set()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_reaches_behind_the_dataframe_api(module: str) -> None:
    attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    assert not attributes & {"_jvm", "_jdf", "_jsc", "_jsparkSession", "_jc", "rdd", "parallelize"}


def of_self(node: ast.Attribute) -> bool:
    return ast.unparse(node.value) in ("self", "cls", "super()")


def private_uses(parsed: ast.Module) -> Iterator[tuple[str, bool]]:
    """Each private name that is imported or looked up, also by `getattr`, and whether it is an attribute of self."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, of_self(node)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.name, False) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield str(name.value), False


@functools.cache
def defined_names() -> frozenset[str]:
    """The private names that the package defines itself."""
    found: set[str] = set()
    for node in (node for module in MODULES for node in ast.walk(tree(module))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            found.add(node.attr)
    return frozenset(filter(is_private, found))


@functools.cache
def compat_names() -> frozenset[str]:
    """The private names of libraries that `_compat` uses."""
    return frozenset(name for module in MODULES if in_compat(module) for name, _ in private_uses(tree(module)))


def internals_used(parsed: ast.Module) -> set[str]:
    """The internals of libraries that a module uses: undocumented modules, and private names."""
    modules: set[str] = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and node.attr in ("src", "python"):
            modules.add(ast.unparse(node).replace("tf.python", "tensorflow.python"))
    found = {name for name in modules if any(f"{name}.".startswith(f"{internal}.") for internal in INTERNAL)}
    for name, own in private_uses(parsed):
        if name not in DOCUMENTED and (name not in defined_names() or (not own and name in compat_names())):
            found.add(name)
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if not in_compat(module)])
def test_internals_of_libraries_are_used_in_compat_only(module: str) -> None:
    assert internals_used(tree(module)) == set(), f"spark_dl.{module}: use or add a function in spark_dl._compat"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import keras\nkeras.src.saving.saving_lib", "keras.src"),
        ("import keras.src.backend", "keras.src.backend"),
        ("from keras.src import activations", "keras.src.activations"),
        ("from tensorflow.python.eager import context", "tensorflow.python.eager.context"),
        ("import tensorflow as tf\ntf.python", "tensorflow.python"),
        ("from mlflow.tracking.fluent import _active_run_stack", "_active_run_stack"),
        ("from mlflow.utils import environment", "mlflow.utils.environment"),
        ("model._flatten_layers()", "_flatten_layers"),
        ("getattr(model, '_compile_config', None)", "_compile_config"),
        ("variable._path = path", "_path"),
        ("self._paramMap", "_paramMap"),
    ],
)
def test_use_of_internals_is_found(code: str, found: str) -> None:
    assert found in internals_used(ast.parse(code))


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


# Statements that one process runs in turn, each with what may be loaded by then: starting a process takes seconds.
IMPORTS: dict[str, list[tuple[str, set[str]]]] = {
    "ranks and scoring": [
        ("import spark_dl", set()),
        ("import spark_dl.cli", set()),
        ("import spark_dl.launch.rank", set()),
        ("import spark_dl._compat.horovod", set()),
        ("import spark_dl.score.scoring_model", {"numpy", "pandas", "pyarrow"}),
        ("import spark_dl._compat.keras_saving", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
        ("import spark_dl.train.loop", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
        ("import spark_dl.train.entry", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
        ("import spark_dl.score.assess", {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}),
    ],
    "the driver": [
        ("import spark_dl._compat.spark", {"pyspark", "numpy"}),
        ("import spark_dl._compat.spark_ml", {"pyspark", "numpy", "pandas", "pyarrow"}),
        (
            "from spark_dl import KerasClassifier, HorovodLauncher, doctor; KerasClassifier(epochs=2)",
            {"pyspark", "numpy", "pandas", "pyarrow"},
        ),
    ],
    "Petastorm": [("import spark_dl._compat.petastorm", {"petastorm", "numpy", "pandas", "pyarrow"})],
}


@pytest.mark.parametrize("process", IMPORTS)
def test_an_import_loads_no_library_that_it_does_not_need(process: str) -> None:
    loaded = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    program = "\n".join(f"{statement}\n{loaded}" for statement, _ in IMPORTS[process])
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for (statement, may_load), line in zip(IMPORTS[process], ran.stdout.splitlines(), strict=True):
        assert set(line.split()) <= may_load, statement


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


def test_texts_for_the_user_are_log_records_warnings_or_the_progress_display() -> None:
    """Others write to a stream only to forward a rank's output, or as a command's output."""
    streams = {"sys.stdout", "sys.stderr"}
    writing = {name for name in MODULES if streams & {ast.unparse(node) for node in ast.walk(tree(name))}}
    assert {name for name in writing if layer(name) != "cli"} == {
        *("fit.progress", "launch.fork_server", "launch.rank", "launch.rank_process", "spark.python_daemon"),
    }


def test_loggers_have_the_names_of_their_modules() -> None:
    named = {
        name: ast.unparse(node)
        for name in MODULES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_log"
    }
    assert {"fit.progress", "launch.monitor", "launch.rank", "track.queued"} <= named.keys()
    assert set(named.values()) == {"_log = logging.getLogger(__name__)"}


def test_the_package_logs_nothing_unless_the_application_configures_logging() -> None:
    program = "import spark_dl, logging; logging.getLogger('spark_dl.some.module').warning('trouble')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
