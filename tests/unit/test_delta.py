"""The version of a Delta table, from the files that were read.

delta-rs 1.6.6 wrote the table `delta_table`: three commits that append, and one that deletes a row; a checkpoint after
the second.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import pytest

from spark_dl.io.delta import DeltaTable, delta_table

TABLE = Path(__file__).parent / "delta_table"
# The files of each version, by their names up to the first random digits.
FIRST = {"part-00000-37a9", "part-00000-964a"}
SECOND = FIRST | {"part-00000-7e5a", "part-00000-bd02"}
THIRD = SECOND | {"part-00000-39bd", "part-00000-c965"}
FOURTH = THIRD - {"part-00000-964a"} | {"part-00000-0a80"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TABLE, tmp_path / "a table"))


def urls(table: Path, names: Collection[str]) -> list[str]:
    """The URLs of files as Spark spells them."""
    files = [path for path in sorted(table.glob("part=*/*")) if path.name[:15] in names]
    assert len(files) == len(names)
    return [f"file://{quote(str(path))}" for path in files]


@pytest.mark.stack
def test_the_version_is_that_whose_files_were_read(table: Path) -> None:
    for version, names in enumerate((FIRST, SECOND, THIRD, FOURTH)):
        assert delta_table(urls(table, names)) == DeltaTable(str(table), version)
    assert delta_table(urls(table, FIRST | {"part-00000-0a80"})) == DeltaTable(str(table), None)


def test_a_log_without_its_first_commits_begins_at_the_checkpoint(table: Path) -> None:
    for version in (0, 1):
        (table / "_delta_log" / f"{version:020d}.json").unlink()
    found = [delta_table(urls(table, names)) for names in (FIRST, SECOND, THIRD, FOURTH)]
    assert found == [DeltaTable(str(table), version) for version in (None, 1, 2, 3)]


def test_versions_that_differ_in_deleted_rows_alone_arent_compared(table: Path) -> None:
    log = table / "_delta_log"
    commits = [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(log.glob("*.json"))]
    added = next(one["add"] for one in commits[-1] if "add" in one)
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40}
    again = [{"add": {**added, "deletionVector": vector}}, {"remove": {"path": added["path"], "dataChange": True}}]
    (log / f"{4:020d}.json").write_text("\n".join(map(json.dumps, again)))
    assert delta_table(urls(table, FOURTH)) == DeltaTable(str(table), None)
    assert delta_table(urls(table, THIRD)) == DeltaTable(str(table), 2)
    (log / f"{2:020d}.json").unlink()  # a gap: what the later versions consist of isn't known
    assert delta_table(urls(table, FOURTH)) == DeltaTable(str(table), None)


def test_other_files_are_of_no_table(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    other.touch()
    ours = urls(table, FIRST)
    for files in ([], [other.as_uri()], [*ours, other.as_uri()], ["s3://bucket/table/part.parquet"], ["nowhere:/x"]):
        assert delta_table(files) is None
    (table / "_delta_log" / f"{1:020d}.json").write_text("no JSON")
    assert delta_table(ours) is None
