"""What is claimed, rerunnable."""
