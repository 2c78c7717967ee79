"""Small studies of how models learn and forget, each a command: `expunge study NAME`."""
