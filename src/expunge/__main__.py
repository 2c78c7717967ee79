"""`python -m expunge`: the same as the console script."""

from __future__ import annotations

from expunge.cli.main import main

if __name__ == "__main__":
    main()
