"""How each method turns examples into a part: one file per method."""
