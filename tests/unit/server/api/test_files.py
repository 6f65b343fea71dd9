"""Files and uploads, as the official client sends them."""

from __future__ import annotations

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from residency.server.api.server import Server
from residency.server.database.tables import File


def test_a_file_comes_back_as_it_was_sent(openai: OpenAI, tmp_path: Path, rows: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(rows)
    file = openai.files.create(file=path, purpose="fine-tune")
    assert (file.filename, file.bytes, file.status, file.purpose) == (
        "train.jsonl",
        len(rows),
        "processed",
        "fine-tune",
    )
    assert openai.files.retrieve(file.id) == file
    assert openai.files.wait_for_processing(file.id).id == file.id
    assert openai.files.content(file.id).read() == rows


def test_raw_bytes_without_a_name_are_taken(openai: OpenAI, rows: bytes) -> None:
    assert openai.files.create(file=rows, purpose="fine-tune").filename == "upload"


def test_files_are_listed_newest_first_and_page_by_page(openai: OpenAI) -> None:
    ids = [openai.files.create(file=b"x", purpose="user_data").id for _ in range(5)]
    openai.files.create(file=b"{}", purpose="batch")
    found = [file.id for file in openai.files.list(purpose="user_data", limit=2)]
    assert found == ids[::-1]
    assert [file.id for file in openai.files.list(purpose="user_data", order="asc")] == ids
    page = openai.files.list(purpose="user_data", limit=2, after=ids[2])
    assert [file.id for file in page.data] == [ids[1], ids[0]]
    assert page.has_more is False


def test_a_deleted_file_is_gone(openai: OpenAI, server: Server, rows: bytes) -> None:
    file = openai.files.create(file=rows, purpose="fine-tune")
    assert openai.files.delete(file.id).deleted
    assert not server.storage.system.exists(server.storage.path(file.id))
    with pytest.raises(sdk.NotFoundError, match=f"No such File object: {file.id}"):
        openai.files.retrieve(file.id)


def test_an_expired_file_is_gone(openai: OpenAI, server: Server) -> None:
    file = openai.files.create(file=b"x", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    with server.database.write() as session:
        session.query(File).update({"expires_at": time.time() - 1})
    with pytest.raises(sdk.NotFoundError, match="expired"):
        openai.files.retrieve(file.id)
    assert openai.files.list().data == []


@pytest.mark.parametrize("name", ["train.csv", "train.json"])
def test_a_training_file_of_another_format_is_refused(openai: OpenAI, name: str) -> None:
    with pytest.raises(sdk.BadRequestError, match=r"Must be \.jsonl"):
        openai.files.create(file=(name, b"x"), purpose="fine-tune")


def test_an_unknown_purpose_is_refused_with_its_name(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.files.create(file=b"x", purpose="nothing")  # type: ignore[arg-type]
    assert caught.value.param == "purpose"


def test_an_upload_becomes_the_file_its_parts_make(openai: OpenAI, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    path = tmp_path / "big.jsonl"
    path.write_bytes(data)
    done = openai.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=4096,
        md5=hashlib.md5(data).hexdigest(),
    )  # fmt: skip
    assert done.status == "completed"
    assert done.file is not None
    assert openai.files.content(done.file.id).read() == data
    assert done.file.bytes == len(data)


def test_an_upload_is_completed_in_the_order_the_client_names(openai: OpenAI) -> None:
    upload = openai.uploads.create(bytes=4, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    late = openai.uploads.parts.create(upload.id, data=b"cd").id
    early = openai.uploads.parts.create(upload.id, data=b"ab").id
    done = openai.uploads.complete(upload.id, part_ids=[early, late])
    again = openai.uploads.complete(upload.id, part_ids=[early, late])
    assert done.file is not None
    assert openai.files.content(done.file.id).read() == b"abcd"
    assert again.file == done.file
    with pytest.raises(sdk.BadRequestError, match="completed"):
        openai.uploads.parts.create(upload.id, data=b"ef")


def test_an_upload_that_is_completed_twice_at_a_time_makes_one_file(openai: OpenAI) -> None:
    data = random.Random(0).randbytes(2**20)
    upload = openai.uploads.create(
        bytes=32 * len(data), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    parts = [openai.uploads.parts.create(upload.id, data=data).id for _ in range(32)]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: openai.uploads.complete(upload.id, part_ids=parts).file, range(3)))
    assert len(openai.files.list().data) == 1
    assert done[0] is not None
    assert done[0] == done[1] == done[2]
    assert openai.files.content(done[0].id).read() == 32 * data


def test_an_upload_that_does_not_add_up_makes_no_file(openai: OpenAI) -> None:
    upload = openai.uploads.create(bytes=4, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    part = openai.uploads.parts.create(upload.id, data=b"abcd").id
    with pytest.raises(sdk.BadRequestError, match="MD5"):
        openai.uploads.complete(upload.id, part_ids=[part], md5="0" * 32)
    with pytest.raises(sdk.BadRequestError, match="0 bytes; 4 were announced"):
        openai.uploads.complete(upload.id, part_ids=[])
    with pytest.raises(sdk.BadRequestError, match="no part"):
        openai.uploads.complete(upload.id, part_ids=["part_other"])
    assert openai.files.list().data == []
    assert openai.uploads.complete(upload.id, part_ids=[part]).status == "completed"


def test_a_cancelled_upload_takes_no_more(openai: OpenAI) -> None:
    upload = openai.uploads.create(bytes=4, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    assert openai.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(sdk.BadRequestError, match="cancelled"):
        openai.uploads.complete(upload.id, part_ids=[])


def test_a_part_that_arrives_while_its_upload_is_cancelled_is_not_kept(
    openai: OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = openai.uploads.create(bytes=4, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    write, kept = server.storage.write, set(server.storage.system.ls(server.storage.root))

    def cancel_and_write(*arguments: Any, **options: Any) -> int:
        openai.uploads.cancel(upload.id)
        return write(*arguments, **options)

    monkeypatch.setattr(server.storage, "write", cancel_and_write)
    with pytest.raises(sdk.BadRequestError, match="cancelled"):
        openai.uploads.parts.create(upload.id, data=b"abcd")
    server.storage.system.invalidate_cache()
    assert set(server.storage.system.ls(server.storage.root)) == kept
