"""`vlmgym serve`: what it declares, what it refuses, and a whole session of it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import yaml
from ports import free_port
from ray.serve.schema import ServeDeploySchema

from vlmgym.cli import main
from vlmgym.serving.settings import ServeSettings


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("VLMGYM_API_KEY", raising=False)


@pytest.fixture
def run_dir(make_model, tmp_path):
    """A run directory with a checkpoint, as training leaves it."""
    run = tmp_path / "runs" / "demo"
    (run / "checkpoints").mkdir(parents=True)
    (run / "job.yaml").write_text("sampling: {max_tokens: 17}\n")
    model_dir = run / "checkpoints" / "grpo-000003" / "learner_group/learner/rl_module/policy/hf"
    shutil.copytree(make_model(0), model_dir)
    (run / "checkpoints" / "grpo-000003" / "checkpoint.json").write_text("{}")
    return run


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *map(str, arguments)])
    return ended.value.code


def declared(capsys, *arguments):
    assert run(*arguments, "--dry-run") == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_a_dry_run_prints_what_serve_deploy_takes(run_dir, capsys):
    config = declared(capsys, run_dir, "--port", "8123")
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    settings = ServeSettings.model_validate(application.args)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8123)
    assert (settings.model, settings.max_tokens) == ("demo", 17)
    (deployment,) = application.deployments
    checkpoint = Path(deployment.user_config["checkpoint"])
    assert checkpoint.is_absolute() and (checkpoint / "config.json").is_file() and checkpoint.is_relative_to(run_dir)
    assert (deployment.num_replicas, deployment.max_ongoing_requests, deployment.max_queued_requests) == (1, 64, 256)


def test_replicas_may_follow_the_load(make_model, capsys):
    options = ("--replicas", "2", "--max-replicas", "5", "--batch-size", "16", "--name", "tiny", "--queue", "9")
    config = declared(capsys, make_model(0), *options)
    (application,) = ServeDeploySchema.model_validate(config).applications
    (deployment,) = application.deployments
    scaling = deployment.autoscaling_config
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (2, 5, 16)
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (16, 9)
    assert application.args == {"model": "tiny", "max_batch_size": 16}


def test_a_key_of_the_environment_is_declared_as_its_digest(make_model, capsys, monkeypatch):
    monkeypatch.setenv("VLMGYM_API_KEY", "secret")
    config = declared(capsys, make_model(0), "--host", "0.0.0.0")
    assert len(config["applications"][0]["args"]["api_key_sha256"]) == 64
    assert "secret" not in yaml.safe_dump(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "an API key is required to listen at 0.0.0.0"),
        (("--replicas", "3", "--max-replicas", "2"), "must be at least --replicas = 3, got 2"),
    ],
)
def test_what_cannot_be_served_is_one_line(make_model, capsys, arguments, message):
    assert run(make_model(0), *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlmgym: ") and message in line


def test_a_directory_without_a_model_is_one_line(tmp_path, capsys):
    assert run(tmp_path) == 2
    assert "holds no model" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(make_model, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("vlmgym.cluster.join_cluster", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(make_model(0), "--port", port) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_session_from_its_start_over_a_new_checkpoint_to_its_end(run_dir, make_model, tmp_path):
    """--follow: the checkpoint that training writes next is served, and an interrupt ends all."""
    port = free_port()
    command = [sys.executable, "-m", "vlmgym", "serve", str(run_dir), "--port", str(port), "--follow"]
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": "/tmp"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as session:
        try:
            serving, address = read_until(session, "serving"), read_until(session, "openai:")
            assert "grpo-000003" in serving
            name, _, url = address.removeprefix("vlmgym: openai:").strip().partition("@")
            assert name == "demo"
            with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
                ask = dict(model=name, messages=[{"role": "user", "content": "hello"}], temperature=0)
                before = client.chat.completions.create(**ask)
                newest = run_dir / "checkpoints" / "grpo-000004" / "learner_group/learner/rl_module/policy/hf"
                shutil.copytree(make_model(1), tmp_path / "written" / "learner_group/learner/rl_module/policy/hf")
                (tmp_path / "written" / "checkpoint.json").write_text("{}")
                (tmp_path / "written").rename(run_dir / "checkpoints" / "grpo-000004")
                assert str(newest) in read_until(session, "serving")
                after = client.chat.completions.create(**ask)
            assert before.system_fingerprint != after.system_fingerprint
            session.send_signal(signal.SIGTERM)
            assert session.wait(120) == 0
        finally:
            session.kill()


def read_until(session, start):
    """The next line of the session that begins so."""
    for line in session.stdout:
        if line.startswith(f"vlmgym: {start}"):
            return line
    pytest.fail("the session ended")
