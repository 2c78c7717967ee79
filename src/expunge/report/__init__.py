"""Records in, one self-contained page out. Nothing here imports torch."""
