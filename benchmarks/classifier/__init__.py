"""How well the classifier tells types and kinds of fault, on nights that it never saw."""
