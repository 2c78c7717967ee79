"""Faster ways to the same numbers. EXPUNGE_PLAIN=1 turns all of them off."""
