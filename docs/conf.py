"""Sphinx builds docs/ into a site: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "Equipoise"
author = "the Equipoise authors"
project_copyright = "the Equipoise authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_title = "Equipoise"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path: list[str] = []

# The pages must also read well on a plain Git host: ordinary links, headings as anchors.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Links to files of the clone outside docs/ work on a Git host; the site leaves them as they are.
myst_url_schemes = ["http", "https", "mailto"]

default_role = "code"
suppress_warnings = [
    "ref.python"
]  # a type's name that two modules have: the signature then links to one of them
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

NAVIGATION = {
    "index": {
        "Start": ("first-hour", "own-environment", "policies", "observations", "own-network", "own-stage"),
        "Use": (
            "configuration",
            "callbacks",
            "teachers",
            "loggers",
            "tuning",
            "dashboard",
            "report",
            "sweeps",
            "distributed",
            "cluster",
            "sharing",
            "deploy",
            "it-does-not-learn",
            "troubleshooting",
            "security",
        ),
        "Understand": ("how-it-works", "systems", "balance", "pathwise", "comparison", "results/README"),
        "Change": ("architecture", "files", "api/index"),
    },
    "api/index": {"": ("equipoise", "environments", "data", "stages", "policies", "algorithm", "running")},
    "results/README": {
        "": (
            *("balance", "scaling", "scaling_full", "regret", "default", "ablation", "alignment"),
            *(
                "benchmarks",
                "benchmarks-notes",
                "first_try",
                "first_try_ablation",
                "distributions",
                "extremes",
                "conditioning",
                "pathwise",
                "pathwise_tuned",
            ),
            "environments",
            "memory",
            "teachers",
            *("speed", "speed_peers", "workers", "pictures", "tuning", "reliability"),
        )
    },
}
"""The side bar. It is added while building, so that the pages stay plain Markdown."""

COLON = "\ue000"
"""Stands for a colon while Napoleon reads."""

OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)#]+)\)")


def add_navigation(app: Any, docname: str, source: list[str]) -> None:
    for caption, pages in NAVIGATION.get(docname, {}).items():
        options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
        source[0] += "\n".join(["\n```{toctree}", *options, "", *pages, "```", ""])


def keep_outside_links_as_text(app: Any, docname: str, source: list[str]) -> None:
    """Links to code outside docs/ become plain text: the site has no copy of it."""
    depth = docname.count("/")

    def replace(found: re.Match[str]) -> str:
        return found[0] if found[1].count("../") <= depth else "]()"

    text = OUTSIDE.sub(replace, source[0])
    source[0] = re.sub(r"\[([^\]]*)\]\(\)", r"\1", text)


SECTIONS = ("Args:", "Raises:", "Returns:", "Yields:", "Attributes:")


def markdown_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are Markdown: code in single backticks, lists, indented blocks."""
    if not lines or lines[0].startswith("Alias for field number"):  # a NamedTuple's, without words of ours
        lines.clear()
        return
    shown: list[str] = []
    sections = code = in_list = False
    for line, escaped in zip(lines, escape("\n".join(lines)).split("\n"), strict=True):
        sections |= line in SECTIONS  # from there on the indentation is Napoleon's business
        blank, deep = not line.strip(), indent(line) > 0
        previous = shown[-1] if shown else ""
        if code and (blank or deep):
            shown.append(line)
            continue
        code = deep and not (blank or sections or in_list or previous.strip())
        if code:
            shown += ["::", "", line]
            continue
        in_list = is_item(line) or (in_list and (blank or deep))
        if not blank and previous.strip() and not sections:
            deeper = indent(line) - indent(previous)
            starts_list = is_item(line) and not is_item(previous) and deeper >= 0
            if deeper < 0 or starts_list or (deeper > 0 and not is_item(previous)):
                shown.append("")
        shown.append(escaped)
    # Napoleon would make a type and a description of an attribute's "`[B, K]`: what it is".
    if what in ("attribute", "data", "property"):
        shown = [line.replace(":", COLON) for line in shown]
    lines[:] = shown


def escape(text: str) -> str:
    """What is markup in reStructuredText, but neither in Markdown nor in code, as plain characters."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(r"([*|\\]|(?<=\w)_(?=\W|$))", r"\\\1", pieces[index])
    return "".join(pieces)


def colons_back(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def is_item(line: str) -> bool:
    return line.lstrip().startswith("- ")


def setup(app: Any) -> None:
    app.connect("source-read", add_navigation)
    app.connect("source-read", keep_outside_links_as_text)
    app.connect("autodoc-process-docstring", markdown_docstring, priority=100)
    app.connect("autodoc-process-docstring", colons_back, priority=900)
