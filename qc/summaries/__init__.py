"""Values of a night, a period and a trend."""
