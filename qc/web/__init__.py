"""The review pages: what a browser sees of a project. A door: parse, call one function, present."""
