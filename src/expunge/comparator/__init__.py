"""Runs set against each other on one page that people work with: build, screen, contrast, attack."""
