"""Throughput of an archive, compared with a plain script and a lower bound."""
