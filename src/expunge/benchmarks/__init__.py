"""Names of tasks, suites and their published numbers, and the audit that puts them together."""
