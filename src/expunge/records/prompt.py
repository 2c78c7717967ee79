"""How the rows of a task become what a model reads: stated before a run, and kept with it."""

from __future__ import annotations

from expunge.records.base import Record


class PromptFormat(Record):
    """What an encoder makes of rows, as a person can check it."""

    format: str
    """How a question is put to the model, in words."""
    first_row: str = ""
    """The first row as the model reads it, every special token written out; what is supervised stands in [[ ]]."""
    date: str = ""
    """What "today" is to a chat template that writes the date."""
    notes: tuple[str, ...] = ()
    """What the chat template does that a reader should know."""
    warnings: tuple[str, ...] = ()
    """What may be wrong with the format, or with rows in it, which are named by their ids."""
    encoder: str = ""
    """Fingerprint of the tokenizer and template, or of what reads the images."""

    @property
    def without_row(self) -> PromptFormat:
        """The same without the text of a row."""
        return self.model_copy(update={"first_row": ""})

    @property
    def purged(self) -> PromptFormat:
        """The same without text and ids of rows; notes and warnings may quote both."""
        return self.model_copy(update={"first_row": "", "notes": (), "warnings": ()})

    @property
    def lines(self) -> tuple[str, ...]:
        """Format, first row and notes, one line each."""
        row = (f"First row, supervised in [[ ]]: {self.first_row!r}",) if self.first_row else ()
        return (f"Prompt format: {self.format}.", *row, *self.notes)
