"""Settings of the documentation site, which scripts/docs.sh builds."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import spark_dl

project = "spark_dl"
copyright = "the spark_dl authors, Apache-2.0"
version = release = spark_dl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "option_reference"]
exclude_patterns = ["_build", "_ext"]
if not any((DOCS / "notebooks").glob("*.ipynb")):  # a glob that finds nothing is a warning
    exclude_patterns.append("gallery.md")
    suppress_warnings = ["toc.not_readable"]
templates_path = []

# Every reference to spark_dl must lead somewhere. Other libraries' pages aren't looked up: a build needs no network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!spark_dl\b).*")]

# Notebooks are shown as they were executed: tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `name` in a docstring is code, as in Markdown.
default_role = "literal"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"spark_dl {version}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_sidebars = {page: [] for page in ("quickstart", "how_it_works", "compatibility")}  # they have no pages below them
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_version_warning_banner": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "comparison": []},  # its tables need the width
    "footer_start": ["copyright"],
    "footer_end": [],
}
