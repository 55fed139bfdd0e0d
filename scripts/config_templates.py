"""Write conf/train.yaml and conf/score.yaml from the declared keys: `python scripts/config_templates.py`.

`--check` changes nothing and fails where a file isn't current.
"""

import sys
from pathlib import Path

from generated import update

from spark_dl.cli.templates import TEMPLATES, rendered

FOLDER = Path(__file__).resolve().parent.parent / "conf"


if __name__ == "__main__":
    sys.exit(update(__doc__, {FOLDER / f"{name}.yaml": rendered(name) for name in TEMPLATES}))
