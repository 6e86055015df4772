"""The Serve YAML is what Serve takes, and speaks of an application and a deployment that are there."""

import importlib
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from vlmgym.serving.deploying import IMPORT_PATH
from vlmgym.serving.settings import ServeSettings

FILE = Path(__file__).resolve().parents[2] / "k8s" / "serve.yaml"


@pytest.fixture(scope="module")
def application():
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text())).applications
    return application


def test_no_key_is_unknown_to_serve():
    content = yaml.safe_load(FILE.read_text())
    known = ServeDeploySchema.model_validate(content).model_dump(exclude_unset=True, by_alias=False)
    assert known.keys() == content.keys()
    (given,), (read,) = content["applications"], known["applications"]
    assert given.keys() == read.keys() and given["deployments"][0].keys() == read["deployments"][0].keys()
    assert given["deployments"][0]["ray_actor_options"] == read["deployments"][0]["ray_actor_options"]


def test_it_builds_the_application(application):
    assert application.import_path == IMPORT_PATH
    module, _, name = application.import_path.partition(":")
    built = getattr(importlib.import_module(module), name)(application.args)
    (deployment,) = application.deployments
    assert built._bound_deployment.name == deployment.name


def test_a_replica_is_asked_for_as_much_as_its_engine_does_at_once(application):
    settings = ServeSettings.model_validate(application.args)
    (deployment,) = application.deployments
    assert deployment.max_ongoing_requests == settings.max_batch_size
    assert deployment.autoscaling_config["target_ongoing_requests"] <= settings.max_batch_size
    assert set(deployment.user_config) == {"checkpoint"}
