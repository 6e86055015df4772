"""Folders here and on what fsspec reaches: the same operations, and values that can be pickled."""

import pickle
import uuid

import pytest

from vlmgym.storage import Storage


@pytest.fixture(params=["path", "file", "memory"])
def storage(request, tmp_path):
    """An empty folder that does not exist yet, by a path and by two kinds of URI."""
    name = uuid.uuid4().hex
    locations = {"path": tmp_path / name, "file": f"file://{tmp_path}/{name}", "memory": f"memory://tests/{name}"}
    return Storage.at(locations[request.param])


def test_what_is_written_is_there_and_what_is_deleted_is_not(storage):
    assert storage.names() == [] and not storage.exists()
    (storage / "a" / "file").write("über\n")
    assert storage.names() == ["a"] and (storage / "a").names() == ["file"]
    assert (storage / "a" / "file").read() == "über\n"
    (storage / "a" / "file").write("again\n")
    assert (storage / "a" / "file").read() == "again\n"
    (storage / "a").delete()
    (storage / "a").delete()
    assert not (storage / "a" / "file").exists()
    with pytest.raises(FileNotFoundError):
        (storage / "a" / "file").read()


def test_a_folder_is_copied_to_where_nothing_is_yet(storage, tmp_path):
    (storage / "a" / "file").write("x")
    (storage / "a" / "b" / "file").write("y")
    there = Storage.at(tmp_path / "there" / "a")
    (storage / "a").copy_to(there)
    assert (there / "file").read() == "x" and (there / "b" / "file").read() == "y"
    there.copy_to(storage / "c" / "d")
    assert (storage / "c" / "d" / "b" / "file").read() == "y"
    (storage / "a" / "file").copy_to(storage / "e" / "file")
    assert (storage / "e").names() == ["file"]


def test_a_folder_can_be_sent_to_another_process(storage):
    (storage / "file").write("x")
    same = pickle.loads(pickle.dumps(storage))
    assert (same / "file").read() == "x" and same.renames == storage.renames


def test_only_folders_on_this_machine_are_renamed_at_once(tmp_path):
    assert Storage.at(tmp_path).renames and Storage.at(f"file://{tmp_path}").renames
    assert not Storage.at("memory://tests/x").renames
