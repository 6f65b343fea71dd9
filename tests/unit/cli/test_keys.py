"""`residency keys`, on both databases' common ground: a server's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from residency.cli import main
from residency.server.database.connect import open_database
from residency.server.keys import find_key
from residency.server.settings import Settings


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["keys", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_key_is_shown_once_works_and_can_be_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ("--home", str(tmp_path))
    made = run(capsys, "create", "laptop", "--project", "hospital", "--scope", "read", *home)
    secret = str(made["key"])
    (listed,) = run(capsys, "list", *home)["keys"]  # type: ignore[misc]
    assert (listed["name"], listed["scopes"], listed["revoked_at"]) == ("laptop", ["read"], None)
    assert secret not in json.dumps(listed)
    database = open_database(Settings(home=tmp_path).database_url)
    with database.read() as session:
        assert find_key(session, secret) is not None
    assert run(capsys, "revoke", str(made["id"]), *home)["revoked_at"] is not None
    with database.read() as session:
        assert find_key(session, secret) is None
    database.close()


def test_people_see_the_key_and_its_scopes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--home", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("sk-residency-")
    assert "scopes train, infer, read" in shown
    assert main(["keys", "list", "--home", str(tmp_path)]) == 0
    assert "infer" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("revoke", "key_nothing"), ("create", "--scope", "everything")])
def test_a_wrong_id_or_scope_is_named(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "--home", str(tmp_path)]) == 0
    assert main(["keys", *words, "--home", str(tmp_path)]) == 2
    assert words[-1] in capsys.readouterr().err


@pytest.mark.parametrize("words", [("list",), ("revoke", "key_1")])
def test_a_folder_without_a_server_is_named_and_not_made_into_one(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "hmoe"
    assert main(["keys", *words, "--home", str(home)]) == 2
    assert "hmoe is no server's folder: it has no server.db" in capsys.readouterr().err
    assert not home.exists()
