"""Equal weights on any number of ranks: `python scripts/bench/equality.py [PART ...]`.

One table, of the cases of tests/equality, or of those whose names have one of the parts, on 1 to 4 real Horovod ranks:
the largest difference of any variable, relative to its norm, from one plain Keras process that trains on the global
batches.
"""

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path += [str(TESTS), str(TESTS / "equality")]

import test_ranks as equality  # noqa: E402
from sessions import session  # noqa: E402

RANKS = (1, 2, 3, 4)

if __name__ == "__main__":
    names = [name for name in equality.CASES if any(part in name for part in sys.argv[1:] or [""])]
    print("| case | 1 rank | 2 ranks | 3 ranks | 4 ranks |\n|---|---|---|---|---|")
    with session("local-cluster[2,2,1024]") as spark, tempfile.TemporaryDirectory() as directory:
        folders = {name: Path(directory) / name.replace(" ", "-") for name in names}
        plans = {name: equality.plan_of(spark, equality.CASES[name], folder) for name, folder in folders.items()}
        weights = {size: equality.weights_of_ranks(spark, plans, size) for size in RANKS}
    for name in names:
        found = [equality.deviation(name, size, weights[size][name]) for size in RANKS]
        print(f"| {name} |", " | ".join(f"{one:.1e}" for one in found), "|", flush=True)
