"""Scripts that make or check shipped artefacts."""
