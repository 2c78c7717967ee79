"""Rows of a published data set: from a folder of its files, or from the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from expunge.data.files import read_rows
from expunge.data.hub import HubAddress, hub_rows
from expunge.data.mapping import Located
from expunge.errors import MissingError

DATA_VARIABLE = "EXPUNGE_DATA"


@dataclass(frozen=True)
class PublishedData:
    """A data set that has one JSON file per configuration.

    Args:
        title: what people call it.
        hub: its name on the hub.
        known_by: a file by which its folder is recognised, or patterns of file names of which one must be there.
        subfolder: what its folder is called within a folder of several data sets.
    """

    title: str
    hub: str
    known_by: str | tuple[str, ...]
    subfolder: str

    def folder(self, data_dir: Path | None) -> Path | None:
        """The folder with the files; None means the hub. An argument must be right, a variable may be.

        Raises:
            MissingError: `data_dir` does not hold the files.
        """
        named = data_dir or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
        for folder in (named, named / self.subfolder) if named else ():
            if any(next(folder.glob(pattern), None) for pattern in self._patterns):
                return folder
        if data_dir is not None:
            raise MissingError(f"{data_dir} does not hold the {self.title} data.",
                               f"Neither it nor its folder '{self.subfolder}' contains {' or '.join(self._patterns)}.",
                               f"Give the folder with the files of the data set {self.hub}.")
        return None

    @property
    def _patterns(self) -> tuple[str, ...]:
        return (self.known_by,) if isinstance(self.known_by, str) else self.known_by

    def rows(self, config: str, folder: Path | None, *, split: str = "train", file: str = "") -> list[Located]:
        """All rows of a configuration, each with the place it comes from.

        Args:
            split: the split on the hub.
            file: the file of a folder, where it is not called as the configuration.

        Raises:
            MissingError: the file is not there, or the hub cannot be reached.
        """
        if folder is not None:
            return read_rows(folder / (file or f"{config}.json"))
        return hub_rows(HubAddress(self.hub, config, split), title=self.title,
                        otherwise=f"Give a folder with the files by --data-dir or the variable {DATA_VARIABLE}.")

    def required_folder(self, data_dir: Path | None) -> Path:
        """The folder with the files of a data set that is read from files only.

        Raises:
            MissingError: none was given, or it does not hold them.
        """
        folder = self.folder(data_dir)
        if folder is None:
            raise MissingError(f"The {self.title} data is not here.",
                               f"No folder with {' or '.join(self._patterns)} was given.",
                               f"Give one by --data-dir or the variable {DATA_VARIABLE}; its source is {self.hub}.")
        return folder


def beside(folder: Path | None, name: str, subfolder: str) -> Path | None:
    """A file of another data set: in the folder, in its subfolder, or in a folder of that name beside it."""
    places = (folder, folder / subfolder, folder.parent / subfolder) if folder is not None else ()
    return next((place / name for place in places if (place / name).is_file()), None)
