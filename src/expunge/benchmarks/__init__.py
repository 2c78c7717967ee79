"""Tasks that have a name: one file each, with rows, suite, licence and published numbers. No torch here."""
