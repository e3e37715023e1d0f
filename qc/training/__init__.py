"""Training of the fault classifier: labelled examples, training and evaluation."""

__all__ = ["evaluate", "examples", "train"]
