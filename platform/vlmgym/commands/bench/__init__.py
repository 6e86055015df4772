"""`vlmgym bench`: how fast this machine does what training needs, one measurement per command."""

from __future__ import annotations

import typer

from vlmgym.commands.bench.envs import envs
from vlmgym.commands.bench.learner import learner
from vlmgym.commands.bench.rollouts import rollouts
from vlmgym.commands.bench.serve import serve

bench = typer.Typer(help="Measures speed on this machine.", no_args_is_help=True)
bench.command()(envs)
bench.command()(learner)
bench.command()(rollouts)
bench.command()(serve)
