"""Queries and page models of the review pages."""
