"""Options of `expunge serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from expunge.errors import UsageError
from expunge.records.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeSettings(Settings):
    """Options of `expunge serve`."""

    host: str = Field("127.0.0.1", description="Address to listen on; beyond this machine a key is needed.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0: any that is free.")
    api_key_file: Path | None = Field(None, description="File of API keys, one a line: KEY, or NAME KEY.")
    no_key: bool = Field(False, description="Listen beyond this machine without a key.")
    name: str | None = Field(None, min_length=1, description="What the model is called; its folder's name by default.")
    no_logprobs: bool = Field(False, description="Tell no log-probabilities.")
    log_prompts: bool = Field(False, description="Log prompts and answers too.")
    rate: int = Field(600, ge=0, description="Requests per minute and key, or per address without keys; 0: no limit.")
    max_prompt: int = Field(4096, ge=1, description="Longest prompt, in tokens.")
    max_tokens: int = Field(512, ge=1, description="Most new tokens of a choice.")
    batch: int = Field(16, ge=1, le=1024, description="Choices decoded together, and most choices of a request.")
    queue: int = Field(64, ge=1, description="Requests that may wait; further ones get 503.")
    wait: float = Field(60.0, gt=0, description="Seconds that a request may wait for its turn; then it gets 503.")
    drain: float = Field(30.0, ge=0, description="Seconds that requests get to end once the server is told to.")

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        """Beyond this machine somebody must be asked for a key, unless that is what is wanted."""
        if self.host not in LOOPBACK and self.api_key_file is None and not self.no_key:
            raise UsageError(f"--host {self.host} reaches beyond this machine, and no key was given.",
                             "Everyone who reaches the port could ask the model.",
                             "Give --api-key-file FILE, or --no-key to allow that.")
        if self.no_key and self.api_key_file is not None:
            raise UsageError("--no-key excludes --api-key-file.", "One asks for a key, the other for none.",
                             "Leave one of them out.")
        return self
