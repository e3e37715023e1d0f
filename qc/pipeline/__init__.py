"""From a file to a stored verdict."""
