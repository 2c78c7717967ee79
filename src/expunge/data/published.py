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
        known_by: a file by which its folder is recognised.
        subfolder: what its folder is called within a folder of several data sets.
    """

    title: str
    hub: str
    known_by: str
    subfolder: str

    def folder(self, data_dir: Path | None) -> Path | None:
        """The folder with the files; None means the hub. An argument must be right, a variable may be.

        Raises:
            MissingError: `data_dir` does not hold the files.
        """
        named = data_dir or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
        for folder in (named, named / self.subfolder) if named else ():
            if (folder / self.known_by).is_file():
                return folder
        if data_dir is not None:
            raise MissingError(f"{data_dir} does not hold the {self.title} data.",
                               f"Neither it nor its folder '{self.subfolder}' contains {self.known_by}.",
                               f"Give the folder with the files of the data set {self.hub}.")
        return None

    def rows(self, config: str, folder: Path | None) -> list[Located]:
        """All rows of a configuration, each with the place it comes from.

        Raises:
            MissingError: the file is not there, or the hub cannot be reached.
        """
        if folder is not None:
            return read_rows(folder / f"{config}.json")
        return hub_rows(HubAddress(self.hub, config, "train"), title=self.title,
                        otherwise=f"Give a folder with the files by --data-dir or the variable {DATA_VARIABLE}.")
