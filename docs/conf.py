"""Sphinx's settings for `make docs`. The source folder is the root of the repository, so that links to READMEs work."""

from mmdet_edge import __version__ as release  # noqa: F401

project = 'mmdet-edge'
author = 'The mmdet-edge developers'
copyright = author

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon']
root_doc = 'docs/index'
include_patterns = ['*.md', 'docs/*.md', 'configs/*/README.md', 'projects/*/README.md']
# Not only these: Sphinx looks into every folder that is not excluded.
exclude_patterns = ['.*', 'build', 'data', 'work_dirs', 'mmdet_edge', 'tests']

html_theme = 'furo'
html_title = project
html_static_path = ['_static']
html_css_files = ['wide.css']

# Anchors as GitHub makes them.
myst_heading_anchors = 3
myst_enable_extensions = ['dollarmath']

autodoc_member_order = 'bysource'
# Types are in the docstrings, in words.
autodoc_typehints = 'none'
