"""Sphinx extension: options from their declarations in `spark_dl.options`, and links to them.

`{options} CLASS` lists the options that a record declares itself. Inline code that is an option's name, or begins
with one and a "=", becomes a link to it, on all pages.
"""

import re
from dataclasses import is_dataclass

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

from spark_dl import options
from spark_dl.ml.params import OptionParams
from spark_dl.options import ClassifierOptions, EstimatorOptions, FittedClassifierOptions, Option

PAGE = "options"
ON_RESUME = {
    "same": "must be the same",
    "model": "must give the same model",
    "rows": "must give the same rows",
    "any": "may change",
}
NAMES = frozenset(option.name for option in options.all_options())


def anchor(name: str) -> str:
    """The id of an option on its page."""
    return f"option-{name}"


def takers(option: Option) -> str:
    """The classes that have an option."""
    records = {
        "estimators": EstimatorOptions,
        "KerasClassifier": ClassifierOptions,
        "fitted models": options.FittedOptions,
        "KerasClassifierModel": FittedClassifierOptions,
        "KerasTagger": options.TaggerOptions,
        "KerasTaggerModel": options.FittedTaggerOptions,
    }
    having = [name for name, record in records.items() if option in options.options_of(record)]
    of_all = {
        "estimators": ("KerasClassifier", "KerasTagger"),
        "fitted models": ("KerasClassifierModel", "KerasTaggerModel"),
    }
    named = {name for all_of_them, names in of_all.items() if all_of_them in having for name in names}
    return ", ".join(name for name in having if name not in named)


class OptionList(Directive):
    """The options that a record declares, in a definition list."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        record = getattr(options, self.arguments[0])
        inherited = {option for base in record.__bases__ for option in options.options_of(base)}
        return [nodes.definition_list("", *(self.item(o) for o in options.options_of(record) if o not in inherited))]

    def item(self, option: Option) -> nodes.Node:
        term = nodes.term("", "", nodes.literal(text=option.name), ids=[anchor(option.name)])
        facts = {"Default": repr(option.default), "Type": option.type, "Of": takers(option)}
        line = nodes.paragraph()
        for name, value in facts.items():
            line += [nodes.emphasis(text=f"{name}:"), nodes.Text(" "), nodes.literal(text=value), nodes.Text(". ")]
        line += nodes.Text(f"In a resumed fit, it {ON_RESUME[option.on_resume]}.")
        self.state.document.note_explicit_target(term)
        return nodes.definition_list_item("", term, nodes.definition("", *self.parsed(option.doc), line))

    def parsed(self, doc: str) -> list[nodes.Node]:
        paragraph = nodes.paragraph()
        for part in re.split(r"(`\w+`|\b[a-z]+[A-Z]\w*)", doc):  # other options, in backticks or by their camelCase
            name = part.strip("`")
            code = name != part or (name in NAMES and name != name.lower())
            paragraph += nodes.literal(text=name) if code else nodes.Text(part)
        return [paragraph]


class OptionLinks(SphinxPostTransform):
    """Turn inline code that names an option into a link to it."""

    default_priority = 200

    def run(self, **kwargs: object) -> None:
        if self.app.builder.format != "html":
            return
        for literal in list(self.document.findall(nodes.literal)):
            name = re.split(r"=", literal.astext(), maxsplit=1)[0]
            linked = isinstance(literal.parent, (nodes.reference, nodes.term, nodes.title))
            if name in NAMES and not linked and "classes" not in literal.get("classes", []):
                link = make_refnode(self.app.builder, self.env.docname, PAGE, anchor(name), literal.deepcopy(), name)
                literal.replace_self(link)


def without_options(app: Sphinx, what: str, name: str, obj: object, settings: object, lines: list[str]) -> None:
    """Leave the options out of the docstring of a class that has them: they have a page."""
    if what == "class" and issubclass(obj, OptionParams) and "Args:" in lines:
        del lines[lines.index("Args:") :]


def signature(
    app: Sphinx, what: str, name: str, obj: object, settings: object, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Shorten the signatures of classes: sixty options become one word, and records are made by the package."""
    if what == "class" and issubclass(obj, OptionParams):
        return "(**options)", None
    return "" if what == "class" and is_dataclass(obj) else arguments, returned


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("options", OptionList)
    app.add_post_transform(OptionLinks)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", without_options, priority=400)  # before napoleon rewrites "Args:"
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
