"""Settings of the site: `python -m sphinx -W --keep-going -n -b html docs docs/_build`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]

from blocklora_jax import __version__  # noqa: E402

project = "blocklora_jax"
author = "the blocklora_jax developers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstring_fields",
]
exclude_patterns = ["_build", "_extensions", "drawings", "*/table.md", "*/*/table.md", "*/seed-*", "*/*/seed-*"]
html_theme = "furo"
html_title = f"blocklora_jax {version}"

# Headings can be linked to as on GitHub: page.md#a-heading.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings have `name` where reStructuredText would have ``name``.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
# A reference to one of our own names that no page describes is an error. Names of Python, NumPy and JAX are not looked
# up, so that the site builds without a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!blocklora_jax|merge|train).*")]

# The prompt of an interactive session is not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
