"""Methods set against the code of their authors, or of the port that the field uses: one module per method.

`experiments/official.py` runs them. A module, named after the plug-in, states what it compares with and yields
differences:

    REPOSITORY = "owner/name"        # on GitHub
    COMMIT = "0123abc..."            # of the checkout that was compared
    FILE = "src/losses.py"           # the main file that the function is taken from

    def compare(code: Path, seed: int) -> Iterator[Difference]:
        bed = Bed(seed)
        theirs = bed.of(taken(code / FILE, "their_loss")(bed.model, bed.inputs["forget"]))
        yield difference("loss of a batch, beta 0.1", bed.ours("npo(beta=0.1)"), theirs)

`code` is a checkout of REPOSITORY. `taken` runs single functions of a file without importing the file, so that nothing
of theirs stands here and none of their requirements is needed. `Bed` has a tiny Llama in float64 with random weights,
another one as its original, random rows by side, and the same rows as their code reads them; see `bed.py`. `what` says
in a few words which option values and which kind of rows were compared. Where both agree on some rows only (no padding,
equal lengths), it says on which, and why the others differ stands under `deviations` on the card of the plug-in.
"""
