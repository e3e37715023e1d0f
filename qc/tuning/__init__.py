"""Threshold tuning: fit limits to nominal or labelled extensions, propose and write them."""

__all__ = ["choice", "extreme_values", "fit", "history", "label_fit", "limits", "proposals"]
