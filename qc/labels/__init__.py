"""Labels, interventions and the spot check."""
