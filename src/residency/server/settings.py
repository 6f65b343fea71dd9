"""What an operator decides when the server is started; the processes get it from `residency serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    """Below it lie the database, the files and the run folders, unless they are named elsewhere."""
    database: str | None = None
    """`postgresql://...` or `sqlite:///...`; default: server.db below `home`."""
    files: str | None = None
    """An fsspec location; default: the folder `files` below `home`."""
    inference: str | None = None
    """`http://127.0.0.1:PORT`; default: the socket `inference.sock` below `home`."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Pairs of a name, in which `*` stands for anything, and the model it stands for; the first that fits counts."""
    organization: str = "residency"
    """The second part of `ft:base:organization:suffix:id`."""
    loopback: bool = True
    """Whether only this machine reaches the server; any other needs a key."""
    fetch_models: bool = False
    """Whether a client may name a Hub model that is not on this machine yet."""
    python_graders: bool = True
    results_base64: bool = False
    """Serve result files in base64, as OpenAI did."""
    conformance_fixtures: bool = False
    """Keep the objects that the official client's tests ask for, and answer chats without a model."""
    most_file_bytes: int = 512 * 2**20
    most_upload_bytes: int = 8 * 2**30
    requests_at_once: int = 64
    """Answers that may be generated at one time; more are told to come back."""
    requests_per_minute: int | None = None
    """Of one key."""

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.database_file}"

    @property
    def database_file(self) -> Path:
        """Where no other database is named."""
        return self.home.absolute() / "server.db"

    @property
    def files_url(self) -> str:
        return self.files or str(self.home.absolute() / "files")

    @property
    def runs(self) -> Path:
        return self.home.absolute() / "runs"

    @property
    def inference_url(self) -> str:
        return self.inference or f"unix:{self.home.absolute() / 'inference.sock'}"
