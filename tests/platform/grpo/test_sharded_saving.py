"""What learners that shard save together: in the background, whole or not at all, for as many as there will be."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from ray import cloudpickle
from small_learners import Batch, make_config, make_learner, together, update, weights_of

from vlmgym.checkpoints import Checkpoints
from vlmgym.grpo.config import GRPOConfig
from vlmgym.grpo.saving import SHARDS
from vlmgym.metrics_file import Point
from vlmgym.storage import Storage
from vlmgym_policies.processing import load_vlm

cloudpickle.register_pickle_by_value(sys.modules[__name__])

HF = Path("rl_module", "policy", "hf")


def save_and_go_on(rank: int, config: GRPOConfig, shares: list[list[Batch]], path: str) -> tuple[Any, Any, str]:
    """The weights that are saved, those after one update more, made meanwhile, and what it says to who asks one."""
    learner = make_learner(config)
    update(learner, shares[0][rank])
    saved = weights_of(learner)
    learner.start_saving(path, pafs.LocalFileSystem(), Path(path, "all").touch)
    update(learner, shares[1][rank])
    learner.finish_saving()
    with pytest.raises(RuntimeError) as refusal:
        learner.get_state()
    return saved, weights_of(learner), str(refusal.value)


def save_alone_and_go_on(config: GRPOConfig, shares: list[list[Batch]], path: str) -> Any:
    learner = make_learner(config)
    update(learner, shares[0][0])
    learner.save_to_path(path)
    update(learner, shares[1][0])
    return weights_of(learner)


def restore_and_go_on(rank: int, config: GRPOConfig, shares: list[list[Batch]], path: str) -> Any:
    learner = make_learner(config)
    learner.restore_from_path(path)
    update(learner, shares[1][rank])
    return weights_of(learner)


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["whole", "adapters"])
def test_what_shards_save_goes_on_in_shards_in_copies_and_in_one_learner(pair, qwen2_5_vl, shares, tmp_path, lora):
    config, path = make_config(qwen2_5_vl, 2, "fsdp2", lora=lora), str(tmp_path / "learner")
    (saved, expected, refusal), _ = pair(save_and_go_on, config, shares, path)
    assert "no learner has the whole" in refusal
    assert Path(path, "all").exists()
    sizes = [file.stat().st_size for file in Path(path, SHARDS).glob("*.distcp")]
    assert len(sizes) == 2 and max(sizes) < 0.6 * sum(sizes)
    exported = load_vlm(str(Path(path) / HF), torch.float32).state_dict()
    assert exported.keys() == saved.keys()
    assert all(np.array_equal(exported[name].numpy(), value) for name, value in saved.items())
    again, _ = pair(restore_and_go_on, config, shares, path)
    copies, _ = pair(restore_and_go_on, make_config(qwen2_5_vl, 2, "ddp", lora=lora), shares, path)
    alone = restore_and_go_on(0, make_config(qwen2_5_vl, 0, "ddp", lora=lora), together(shares), path)
    for name, value in expected.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
        np.testing.assert_allclose(copies[name], value, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(alone[name], value, atol=1e-4, err_msg=name)


def test_what_one_learner_saves_goes_on_in_shards(pair, qwen2_5_vl, shares, tmp_path):
    path = str(tmp_path / "learner")
    expected = save_alone_and_go_on(make_config(qwen2_5_vl, 0, "ddp"), together(shares), path)
    two, _ = pair(restore_and_go_on, make_config(qwen2_5_vl, 2, "fsdp2"), shares, path)
    for name, value in expected.items():
        np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=name)


def second_learners_disk(error: str) -> pafs.FileSystem:
    """A disk on which what the second of two learners writes never ends, or fails."""

    class Disk(LocalFileSystem):
        protocol = "second"
        cachable = False

        def _open(self, path, mode="rb", **kwargs):
            if "__1_" in path and "w" in mode:
                if error:
                    raise OSError(error)
                time.sleep(600)
            return super()._open(path, mode, **kwargs)

    return pafs.PyFileSystem(pafs.FSSpecHandler(Disk()))


def save_twice(rank: int, config: GRPOConfig, shares: list[list[Batch]], run: str, error: str) -> str:
    """Saves step 1; then step 2, of which the second learner's part is never written, or fails: what is raised."""
    checkpoints = Checkpoints(Storage.at(run), ["grpo"])
    learner = make_learner(config)
    for step, filesystem in ((1, pafs.LocalFileSystem()), (2, second_learners_disk(error))):
        update(learner, shares[0][rank])
        point = Point("grpo", step)
        path = f"{run}/checkpoints/grpo-{step:06d}.partial"
        learner.start_saving(path, filesystem, partial(checkpoints.finish, point))
        if step == 2 and not error:
            return ""
        try:
            learner.finish_saving()
        except RuntimeError as failure:
            return str(failure)
    return "nothing was raised"


@pytest.mark.parametrize("error", ["", "no space left"], ids=["killed", "failed"])
def test_the_checkpoint_before_stays_where_learners_do_not_all_write_theirs(pair, qwen2_5_vl, shares, tmp_path, error):
    (tmp_path / "checkpoints").mkdir()
    config = make_config(qwen2_5_vl, 2, "fsdp2")
    found = pair(save_twice, config, shares, str(tmp_path), error)
    first = tmp_path / "checkpoints" / "grpo-000002.partial" / SHARDS / "__0_0.distcp"
    if error:
        assert all("failed on learner 1: OSError: no space left" in each for each in found), found
    else:
        deadline = time.monotonic() + 60
        while not (first.exists() and first.stat().st_size):
            assert time.monotonic() < deadline, "the first learner writes its part"
            time.sleep(0.05)
        pair.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["grpo-000001", "grpo-000002.partial"]
    checkpoints = Checkpoints(Storage.at(tmp_path), ["grpo"])
    assert checkpoints.latest() == Point("grpo", 1)
    pair(restore_and_go_on, config, shares, checkpoints.path(Point("grpo", 1)).path)


def save_where_one_sees_nothing(rank: int, config: GRPOConfig, path: str) -> str:
    learner = make_learner(config)
    with pytest.raises(FileNotFoundError) as refusal:
        learner.start_saving(f"{path}/{rank}/learner", pafs.LocalFileSystem(), lambda: None)
    learner.finish_saving()
    return str(refusal.value)


def test_learners_that_do_not_all_see_the_folder_say_so_and_wait_for_nothing(pair, qwen2_5_vl, tmp_path):
    (tmp_path / "0").mkdir()
    refusals = pair(save_where_one_sees_nothing, make_config(qwen2_5_vl, 2, "fsdp2"), str(tmp_path), deadline_s=60.0)
    assert all("a folder that all nodes share" in each for each in refusals)


def test_a_remote_folder_is_read_and_written_directly(qwen2_5_vl, shares, tmp_path):
    """memory:// lives in one process, and so does this learner; nothing is left of it on the disk."""
    place = Storage.at("memory://tests/sharded-saving")
    learner = make_learner(make_config(qwen2_5_vl, 0, "ddp"))
    update(learner, together(shares)[0][0])
    learner.save_to_path(place.path, filesystem=place.filesystem)
    expected = weights_of(learner)
    other = make_learner(make_config(qwen2_5_vl, 0, "ddp"))
    other.restore_from_path(place.path, filesystem=place.filesystem)
    assert all(np.array_equal(weights_of(other)[name], value) for name, value in expected.items())
