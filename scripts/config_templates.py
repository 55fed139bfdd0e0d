"""Write conf/train.yaml and conf/score.yaml from the declared keys: `python scripts/config_templates.py`.

`--check` changes nothing and fails where a file isn't current.
"""

import argparse
import sys
from pathlib import Path

from spark_dl.cli.templates import TEMPLATES, rendered

FOLDER = Path(__file__).resolve().parent.parent / "conf"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file isn't current")
    check = parser.parse_args().check
    stale = []
    for name in TEMPLATES:
        path, text = FOLDER / f"{name}.yaml", rendered(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale)}" if stale else "current")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
