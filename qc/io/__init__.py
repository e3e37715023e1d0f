"""FITS files, instrument definitions and remote storage."""
