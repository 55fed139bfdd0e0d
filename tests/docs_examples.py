"""The examples of the documentation: `python` fences of a page, which are one program together.

A `{code-block} python` is shown and not run: the code of other libraries, for comparison.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyspark.sql import SparkSession

DOCS = Path(__file__).parent.parent / "docs"
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    """The pages with examples, by their names; those for Spark Connect need another session."""
    found = [DOCS / "quickstart.md", DOCS / "errors.md", *sorted((DOCS / "guides").glob("*.md"))]
    return [
        str(page.relative_to(DOCS)) for page in found if _FENCE.search(page.read_text()) and "connect" not in page.stem
    ]


def run_page(page: str, spark: SparkSession) -> None:
    """Run the examples of a page, one after the other, as a reader does.

    Args:
        page: Its name below docs.
        spark: The session, which the page's `getOrCreate` gets.
    """
    text = (DOCS / page).read_text()
    assert "spark.stop()" not in text, "the session is that of all tests of the process"
    namespace = {"spark": spark, "__name__": "__main__"}
    for block in _FENCE.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(DOCS / page), "exec")  # tracebacks show the page's lines
        exec(code, namespace)  # noqa: S102
