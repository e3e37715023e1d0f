"""Web application: HTML pages in `pages`, the REST API in `api`."""
