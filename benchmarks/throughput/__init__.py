"""How fast an archive is taken in, beside a plain script and beside what cannot be avoided."""
