"""From files, hub data sets and the built-in world to a `Task`, and from rows to tokens."""
