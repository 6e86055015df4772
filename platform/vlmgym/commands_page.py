"""Decides what docs/commands.md says: every command with its options, written from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from vlmgym.markdown import markdown_table

_HEAD = """\
<!-- Written by `vlmgym docs` from platform/vlmgym/commands/; change it there. -->
# Commands

Bad input ends a command with one line that says what is wrong, and exit code 2. A job file alone, as in
`vlmgym jobs/shisen.yaml`, means the command that it is for: `vlmgym eval` where it has the section `evaluate`, else
`vlmgym train`.
"""


def commands_page() -> str:
    from typer.main import get_command

    from vlmgym.cli import app

    return "\n\n".join([_HEAD.rstrip("\n"), *_commands("vlmgym", get_command(app))]) + "\n"


def _commands(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for inner, found in command.commands.items():
            if not found.hidden:
                yield from _commands(f"{name} {inner}", found)
        return
    arguments = [parameter for parameter in command.params if parameter.opts[0][0] != "-"]
    usage = " ".join([name, *map(_argument, arguments), "[OPTIONS]"])
    yield f"## {name}"
    yield f"`{usage}`"
    yield "\n".join(line.strip() for line in (command.help or "").splitlines())
    rows = [
        (_spelling(parameter), _default(parameter), _takes(parameter), parameter.help or "")
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
    ]
    yield markdown_table(["option", "default", "takes", "is"], rows)


def _argument(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    return shown if parameter.required else f"[{shown}]"


def _spelling(parameter: Any) -> str:
    """`--set`, `--video/--no-video`, or the name of an argument."""
    if parameter.opts[0][0] != "-":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default is None or parameter.default is False:
        return ""
    return "on" if parameter.default is True else f"`{parameter.default}`"


def _takes(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    choices = _choices(parameter.type_descriptor.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if parameter.metavar is not None:
        return f"`{parameter.metavar}`" if parameter.opts[0][0] == "-" else ""
    low, high = (getattr(parameter, bound, None) for bound in ("min", "max"))
    return " ".join(f"{word} {value:g}" for word, value in (("from", low), ("to", high)) if value is not None)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for option in get_args(annotation) for choice in _choices(option))
