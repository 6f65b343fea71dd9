from __future__ import annotations

import os
from pathlib import Path

import pytest

from residency.errors import ResourceError, RunError
from residency.run_folders import claim, create, find_run, list_runs, unfinished


def begun(runs: Path, name: str, *, finished: bool = False, age_seconds: int = 0) -> Path:
    folder = create(runs, name)
    (folder / "config.yaml").touch()
    now = (folder / "config.yaml").stat().st_mtime
    os.utime(folder / "config.yaml", (now - age_seconds, now - age_seconds))
    if finished:
        (folder / "summary.json").touch()
    return folder


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    assert [create(tmp_path / "runs", "bot").name for _ in range(3)] == ["bot", "bot-2", "bot-3"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(RunError, match="is a file"):
        create(tmp_path / "runs", "bot")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="permission denied"):
        create(tmp_path / "runs", "bot")


def test_the_newest_unfinished_run_of_that_name_is_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path, "bot", age_seconds=40)
    second = begun(tmp_path, "bot", age_seconds=30)
    begun(tmp_path, "bot", age_seconds=20, finished=True)
    begun(tmp_path, "bot-other", age_seconds=10)
    assert unfinished(tmp_path, "bot") == second


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="never begun"):
        unfinished(tmp_path, "bot")
    begun(tmp_path, "bot", finished=True)
    with pytest.raises(RunError, match="is finished"):
        unfinished(tmp_path, "bot")


def test_runs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = begun(tmp_path, "bot")
    assert find_run(tmp_path, "bot").path == folder
    assert find_run(tmp_path / "elsewhere", str(folder)).path == folder
    with pytest.raises(RunError, match="no run bat") as caught:
        find_run(tmp_path, "bat")
    assert "bot" in (caught.value.hint or "")


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    begun(tmp_path, "young")
    begun(tmp_path, "old", age_seconds=60)
    assert [run.path.name for run in list_runs(tmp_path)] == ["old", "young"]
    assert list_runs(tmp_path / "none") == []


def test_a_run_is_claimed_once(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(RunError) as caught, claim(tmp_path):
        pass
    assert caught.value.code == "run_in_use"
    with claim(tmp_path):
        pass


def test_a_blocked_read_inside_a_claim_is_not_mistaken_for_another_process(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), claim(tmp_path):
        raise BlockingIOError
