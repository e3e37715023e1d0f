"""Arrays in, arrays out: nothing here knows a path, a header or a row."""
