"""A run directory whose storage is elsewhere: what changed goes there, and comes back on another machine."""

import uuid

import pytest

from vlmgym.remote_copy import RemoteCopy
from vlmgym.storage import Storage


@pytest.fixture
def storage():
    return Storage.at(f"memory://tests/{uuid.uuid4().hex}")


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_what_changed_is_copied_and_can_be_fetched(tmp_path, storage):
    here, there = tmp_path / "here", tmp_path / "there"
    copy = RemoteCopy(here, storage)
    write(here, {"metrics.jsonl": "1\n", "rollouts/grpo-0001/rollouts.jsonl": "{}\n", "checkpoints/a/weights": "big"})
    copy.update()
    (storage / "rollouts" / "grpo-0001" / "rollouts.jsonl").write("what does not change is not copied again")
    write(here, {"metrics.jsonl": "1\n2\n"})
    copy.update()
    assert (storage / "metrics.jsonl").read() == "1\n2\n"
    assert (storage / "rollouts" / "grpo-0001" / "rollouts.jsonl").read().startswith("what does not change")
    assert storage.names() == ["metrics.jsonl", "rollouts"], "checkpoints are written there directly"
    (storage / "checkpoints" / "grpo-000001" / "weights").write("big")
    write(there, {"metrics.jsonl": "old", "stale": ""})
    other = RemoteCopy(there, storage)
    other.fetch()
    assert sorted(path.name for path in there.iterdir()) == ["metrics.jsonl", "rollouts"]
    assert (there / "metrics.jsonl").read_text() == "1\n2\n"
    (storage / "metrics.jsonl").write("newer than here")
    other.update()
    assert (storage / "metrics.jsonl").read() == "newer than here", "what was fetched is not sent back"


def test_a_directory_that_is_its_own_storage_is_left_alone(tmp_path):
    write(tmp_path, {"metrics.jsonl": "1\n"})
    copy = RemoteCopy(tmp_path, Storage.at(tmp_path))
    copy.update()
    copy.fetch()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
