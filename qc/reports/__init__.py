"""Reports: HTML pages and PDF files of nights, weeks, months, frames and trainings.

`publish` writes the files and `index` lists them; `extension_figures` draws one extension.
"""

__all__ = [
    "extension_figures",
    "frame",
    "index",
    "night",
    "pdf",
    "period",
    "pictures",
    "publish",
    "rendering",
    "threshold_proposals",
    "training",
    "trend_figures",
]
