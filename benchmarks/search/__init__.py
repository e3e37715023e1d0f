"""Similarity search in made-up archives of up to a million embeddings."""
