"""Inboxes: detection of new FITS files in local folders and remote storage."""

from qc.service.inboxes.scan import InboxSet, ScanResult, prune_fetched

__all__ = ["InboxSet", "ScanResult", "prune_fetched"]
