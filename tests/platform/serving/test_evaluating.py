"""A job that evaluates through Serve measures what the same weights do in an engine of this process."""

import json

import pytest

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.errors import BadInput
from vlmgym.held_out import HeldOut
from vlmgym.job import JobFile, load_job
from vlmgym.metrics_file import Point
from vlmgym.planning import placement
from vlmgym.serving.deploying import APPLICATION, Scale, deploy, serve_config
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import make_engine

SMALL = """\
sampling: {max_tokens: 44}
env_runners: {count: 1, num_cpus: 0.5}
engine: {num_cpus: 0.5}
evaluation: {num_states: 24, serve_replicas: 1}
cold_start: {updates: 40, lr: 3e-3, teacher: {solver: 1}, eval_every: 20}
grpo: {iterations: 2, groups: 4, group_size: 4, lr: 1e-4, eval_every: 1}
"""


def test_the_replicas_are_part_of_what_a_job_needs(write_job):
    path = write_job("evaluation: {serve_replicas: 2}\nengine: {num_cpus: 3, num_gpus: 1}\n")
    (bundle,) = (bundle for bundle in placement(load_job(path)) if bundle.role == "evaluation")
    assert (bundle.count_key, bundle.num_actors, bundle.cpus, bundle.gpus) == ("evaluation.serve_replicas", 2, 3, 1)
    with pytest.raises(BadInput, match="serve_replicas must be 0 where engines have no resources of their own"):
        JobFile.read(path).resolve(None, ["engine.placement=colocated", "engine.num_gpus=0"])
    assert "evaluation" not in {bundle.role for bundle in placement(load_job(write_job()))}


@pytest.mark.slow
def test_a_job_is_measured_on_serve_as_in_process(write_job, ray_session, tmp_path):
    from ray import serve

    from vlmgym.train import train_job

    job = load_job(write_job(SMALL))
    run_dir = train_job(job)
    assert APPLICATION not in serve.status().applications
    told = json.loads((run_dir / "evaluations.json").read_text())["shisen_sho/tiny"]
    for point in (Point("cold_start", 20), Point("grpo", 1), Point("grpo", 2)):
        name = f"{point.stage}-{point.step:06d}"
        assert name in told and told[name]["greedy"] != told["cold_start-000000"]["greedy"]
    held_out = HeldOut(job, tmp_path, resume=False)
    engine = make_engine("hf", path=str(hugging_face_dir(run_dir / "checkpoints" / "grpo-000002")))
    held_out.measure([engine], Point("grpo", 2))
    engine.close()
    here = json.loads((tmp_path / "evaluations.json").read_text())["shisen_sho/tiny"]
    assert told["grpo-000002"]["greedy"] == here["grpo-000002"]["greedy"]


@pytest.mark.slow
def test_a_declaration_ends_no_other_application(ray_session, make_model):
    from ray import serve

    @serve.deployment
    class Other:
        def __call__(self):
            return "other"

    serve.start(http_options={"host": "127.0.0.1", "port": 8000})
    serve.run(Other.bind(), name="other", route_prefix=None)
    try:
        with pytest.raises(BadInput, match="Serve hosts other on this cluster"):
            deploy(serve_config(ServeSettings(model="m"), str(make_model(0)), Scale(), port=8000))
        assert "other" in serve.status().applications
        with pytest.raises(BadInput, match=r"Serve listens at 127.0.0.1:8000 on this cluster, not at 127.0.0.1:8001"):
            deploy(serve_config(ServeSettings(model="m"), str(make_model(0)), Scale(), port=8001))
    finally:
        serve.shutdown()
