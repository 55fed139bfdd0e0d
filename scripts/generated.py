"""Files that scripts write from declarations: written where they aren't current, or only listed with `--check`."""

import argparse
from collections.abc import Mapping
from pathlib import Path

__all__ = ["update"]


def update(description: str | None, files: Mapping[Path, str]) -> int:
    """Parse the arguments of a script that writes these files; return its exit code.

    Args:
        description: The script's description for `--help`.
        files: The current content of each file.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file isn't current")
    check = parser.parse_args().check
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if not check:
        for path in stale:
            path.write_text(files[path], encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(path.name for path in stale)}" if stale else "current")
    return int(check and bool(stale))
