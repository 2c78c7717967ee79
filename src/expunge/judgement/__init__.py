"""From scores to leaks and verdicts: deciding and wording are two functions."""
