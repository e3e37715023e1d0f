"""Accuracy of the classifier on types and kinds of fault, on unseen nights."""
