"""From measurements and references to a verdict, without I/O."""
