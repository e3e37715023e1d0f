"""How well faults are found in real frames of other instruments."""
