"""`vlmgym serve`: what it takes, in which order it checks, and how long it stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from vlmgym.serving.deploying import Scale
    from vlmgym.serving.settings import ServeSettings

DEFAULT_MAX_TOKENS = 1024
FOLLOW_S = 5.0

_SCALE, _LIMITS = "Replicas", "Limits"

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A model, checkpoint or run directory.", show_default=False)
]
Name = Annotated[
    str | None, typer.Option(help="The model's name for clients.", show_default="that of the run, or of the directory")
]
Host = Annotated[str, typer.Option(help="Where to listen. Others than this machine need VLMGYM_API_KEY to be set.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")]
Engine = Annotated[
    Literal["auto", "hf", "vllm"], typer.Option(help="auto: vllm where that and a GPU are there, else hf.")
]
Replicas = Annotated[int, typer.Option(min=1, help="Engines, or the fewest of them.", rich_help_panel=_SCALE)]
MaxReplicas = Annotated[
    int | None,
    typer.Option(min=1, help="The most, as load asks for.", show_default="as --replicas", rich_help_panel=_SCALE),
]
Cpus = Annotated[float, typer.Option(min=0, help="CPUs of a replica.", rich_help_panel=_SCALE)]
Gpus = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs of a replica.", show_default="1 where there are any", rich_help_panel=_SCALE),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Responses that a replica writes at once.", rich_help_panel=_SCALE)]
Queue = Annotated[
    int, typer.Option(min=0, help="Requests that may wait; the next one gets 429.", rich_help_panel=_LIMITS)
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Longest response.",
        show_default=f"that of the job that trained the model, or {DEFAULT_MAX_TOKENS}",
        rich_help_panel=_LIMITS,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        min=2, help="Tokens of prompt and response.", show_default="the model's bound", rich_help_panel=_LIMITS
    ),
]
Follow = Annotated[bool, typer.Option("--follow", help="Swap to each new checkpoint of the run, as it comes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the Serve YAML, for `serve deploy`; start nothing.")]


def serve(
    checkpoint: Checkpoint,
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    engine: Engine = "auto",
    replicas: Replicas = 1,
    max_replicas: MaxReplicas = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = None,
    batch_size: BatchSize = 64,
    queue: Queue = 256,
    max_tokens: MaxTokens = None,
    max_model_len: MaxModelLen = None,
    follow: Follow = False,
    dry_run: DryRun = False,
) -> None:
    """Hosts a trained policy on Ray Serve, behind OpenAI's chat API.

    Joins the running Ray cluster, and leaves the policy there; without one, starts its own and stays until it is
    interrupted. The same command with another checkpoint swaps the weights of what runs.
    """
    from vlmgym.serving.deploying import Scale

    model_dir = _model_dir(checkpoint)
    settings = _settings(model_dir, checkpoint, name, engine, batch_size, max_tokens, max_model_len)
    _check_key(settings, host)
    most = max_replicas or replicas
    if most < replicas:
        raise typer.BadParameter(f"must be at least --replicas = {replicas}, got {most}", param_hint="--max-replicas")
    scale = Scale(replicas, most, queue, cpus, gpus or 0.0)
    if dry_run:
        _print_yaml(settings, model_dir, scale, host, port)
    else:
        _host(checkpoint, settings, scale, gpus, host, port, follow)


def _model_dir(checkpoint: Path) -> Path:
    from vlmgym.errors import BadInput
    from vlmgym.model_dirs import find_model_dir

    try:
        return find_model_dir(checkpoint.absolute())
    except ValueError as error:
        raise BadInput(str(error)) from error


def _settings(
    model_dir: Path,
    checkpoint: Path,
    name: str | None,
    engine: Literal["auto", "hf", "vllm"],
    batch_size: int,
    max_tokens: int | None,
    max_model_len: int | None,
) -> ServeSettings:
    import os
    from hashlib import sha256

    from vlmgym.model_dirs import run_of, trained_max_tokens
    from vlmgym.serving.access import KEY_VARIABLE
    from vlmgym.serving.settings import ServeSettings

    key = os.environ.get(KEY_VARIABLE)
    return ServeSettings(
        model=name or (run_of(model_dir) or checkpoint.absolute()).name,
        engine=engine,
        max_batch_size=batch_size,
        max_tokens=max_tokens or trained_max_tokens(model_dir) or DEFAULT_MAX_TOKENS,
        max_model_len=max_model_len,
        api_key_sha256=sha256(key.encode()).hexdigest() if key else None,
    )


def _check_key(settings: ServeSettings, host: str) -> None:
    from vlmgym.errors import BadInput
    from vlmgym.serving.access import required_key

    try:
        required_key(settings.api_key_sha256, {}, host)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _print_yaml(settings: ServeSettings, model_dir: Path, scale: Scale, host: str, port: int) -> None:
    import yaml

    from vlmgym.serving.deploying import serve_config

    print(yaml.safe_dump(serve_config(settings, str(model_dir), scale, host=host, port=port), sort_keys=False), end="")


def _host(
    checkpoint: Path, settings: ServeSettings, scale: Scale, gpus: float | None, host: str, port: int, follow: bool
) -> None:
    from dataclasses import replace

    from vlmgym.cluster import join_cluster, start_ray
    from vlmgym.errors import BadInput
    from vlmgym.serving.deploying import serve_config

    resources = join_cluster()
    is_local = resources is None
    if is_local:
        _check_port(host, port)
    resources = resources or start_ray()
    scale = replace(scale, num_gpus=float(resources.gpus > 0) if gpus is None else gpus)
    for unit, each, available in (("CPUs", scale.num_cpus, resources.cpus), ("GPUs", scale.num_gpus, resources.gpus)):
        if (need := scale.min_replicas * each) > available:
            raise BadInput(f"{scale.min_replicas} replica(s) need {need:g} {unit}, this cluster has {available:g}")

    def config() -> dict[str, Any]:
        return serve_config(settings, str(_model_dir(checkpoint)), scale, host=host, port=port)

    try:
        _deploy(config(), settings, host, port)
        if is_local or follow:
            _stay(config, settings, host, port, follow=follow)
    except KeyboardInterrupt:
        print("vlmgym: ending", flush=True)
    finally:
        if is_local:
            _end()


def _check_port(host: str, port: int) -> None:
    import socket

    from vlmgym.errors import BadInput

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise BadInput(f"cannot listen at {host}:{port}: {error.strerror or error}") from error


def _deploy(config: dict[str, Any], settings: ServeSettings, host: str, port: int) -> None:
    from vlmgym.serving.deploying import checkpoint_of, deploy

    deploy(config, lambda line: print(f"vlmgym: {line}", flush=True))
    print(f"vlmgym: serving {checkpoint_of(config)}", flush=True)
    print(f"vlmgym: openai:{settings.model}@http://{host}:{port}/v1", flush=True)


def _stay(config: Any, settings: ServeSettings, host: str, port: int, *, follow: bool) -> None:
    """Until it is interrupted, by Ctrl-C or as containers are ended."""
    import signal
    import time

    from vlmgym.serving.deploying import checkpoint_of

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    served = checkpoint_of(config())
    while True:
        time.sleep(FOLLOW_S)
        if follow and (newest := checkpoint_of(config())) != served:
            _deploy(config(), settings, host, port)
            served = newest


def _end() -> None:
    import ray

    from vlmgym.serving.deploying import end

    end()
    ray.shutdown()
