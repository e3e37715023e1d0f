"""Labels, epochs (interventions) and the spot check."""

__all__ = ["epochs", "import_file", "selection", "spot_check", "store", "taxonomy"]
