"""Scores of benchmarks set against the code of their authors, on the same model outputs: one module per benchmark.

`experiments/official_scores.py` runs them. A module states REPOSITORY, COMMIT and FILES (the files that functions are
taken from), and yields a `Compared` per score:

    def compare(code: Path, seed: int) -> Iterator[Compared]:

`code` is a checkout of REPOSITORY. Their functions run as they are, on a model and a tokenizer that say what the case
asks for (`stubs.py`), and our metrics read the same words and probabilities as observations. `cases.py` makes the
words: empty answers, accents, other scripts, repeated words, several sentences, line breaks, questions that a model
asks itself.
A row with a `deviation` says by how much our default differs on purpose; the row of the option that counts as published
stands beside it.
"""
