"""Configuration of the documentation site: ``sphinx-build -W -b html docs build/docs``."""

import sys
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

project = "calibration-qc"
author = "The calibration-qc authors"
copyright = "The calibration-qc authors, BSD-3-Clause"  # noqa: A001 - the name Sphinx reads
try:
    release = metadata.version("calibration-qc")
except metadata.PackageNotFoundError:
    release = "development"
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "generated_reference",
]
exclude_patterns = ["_ext", "pictures", "systemd"]
root_doc = "index"
language = "en_GB"
default_role = None
highlight_language = "none"  # most blocks are commands with their answers

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath", "html_image"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # numpydoc sections state the types
autodoc_member_order = "bysource"
autodoc_mock_imports: list[str] = []
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "calibration-qc"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
