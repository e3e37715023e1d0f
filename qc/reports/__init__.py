"""HTML and PDF reports."""
