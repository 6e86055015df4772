"""Decides what docs/jobs.md says: every knob of a job file, written from the settings as they are declared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlmgym.job import Job
from vlmgym.markdown import markdown_table

_HEAD = """\
<!-- Written by `vlmgym docs` from platform/vlmgym/settings/; change it there. -->
# Job files

A job is one YAML file. What it leaves out has the default below, which is that of G1
([arXiv 2505.13426](https://arxiv.org/abs/2505.13426)) where that states one. An unknown key, a value of another type
and one outside its rule are errors of one line. `vlmgym train JOB.yaml --dry-run` prints all of them.

```yaml
name: mine
game: {id: shisen_sho, level: tiny}
model: {tiny: true}
grpo: {iterations: 60, groups: 32, group_size: 8, lr: 8e-4}
profiles: # partial jobs by name, laid over the rest of the file; the cluster's GPUs decide, or --profile
  laptop: {env_runners: {count: 1}, engine: {num_cpus: 0.5}}
```

`--set KEY=VALUE` of the command line comes last: `--set grpo.lr=2e-6` sets `lr` in the section `grpo`. A file with the
section `evaluate` holds the options of `vlmgym eval` instead ([commands](commands.md#vlmgym-eval)).
"""

Schema = Mapping[str, Any]


def job_page() -> str:
    schema = Job.model_json_schema()
    return "\n\n".join([_HEAD.rstrip("\n"), *_sections("", schema, schema["$defs"], {})]) + "\n"


def _sections(path: str, section: Schema, definitions: Schema, written: dict[str, str]) -> Iterator[str]:
    """The knobs of a section as a table, then each section inside it. written: where a kind of section stands."""
    inner: dict[str, Schema] = {}
    rows: list[tuple[str, ...]] = []
    for name, knob in section["properties"].items():
        inside = _inside(knob, definitions)
        if inside is None:
            default = _default(name, knob, section)
            rows.append((f"`{path}{name}`", default, _rule(knob), knob.get("description", "")))
        else:
            inner[name] = inside | {"optional": "anyOf" in knob}
    if rows:
        yield markdown_table(["knob", "default", "takes", "is"], rows)
    for name, below in inner.items():
        if below["title"] in written:
            place = written[below["title"]]
            yield f"## `{path}{name}`\n\nA list of sections with the knobs of [`{place}`](#{place})."
            continue
        written[below["title"]] = f"{path}{name}"
        absent = " Left out, there is none." if below["optional"] else ""
        yield f"## `{path}{name}`\n\n{' '.join(below.get('description', '').split())}{absent}"
        yield from _sections(f"{path}{name}.", below, definitions, written)


def _inside(knob: Schema, definitions: Schema) -> dict[str, Any] | None:
    """The section that a knob holds, or a list of such."""
    for option in (knob, *knob.get("anyOf", ()), knob.get("items", {})):
        if "$ref" in option:
            found = definitions[option["$ref"].rpartition("/")[2]]
            return dict(found) if "properties" in found else None
    return None


def _default(name: str, knob: Schema, section: Schema) -> str:
    if "default" in knob:
        value = knob["default"]
        return "none" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"
    return "the paper's for the game" if section.get("title") == "RewardSettings" else "required"


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
}
_BOUNDS = {
    "minimum": "from {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "to {:g}",
    "exclusiveMaximum": "below {:g}",
}


def _rule(knob: Schema) -> str:
    options = [option for option in knob.get("anyOf", ()) if option.get("type") != "null"]
    if options:
        return " or ".join(map(_rule, options))
    values = knob.get("enum", [knob["const"]] if "const" in knob else [])
    if values:
        return ", ".join(f"`{value}`" for value in values)
    told = [text.format(knob[key]) for key, text in _BOUNDS.items() if key in knob]
    values_of = knob.get("additionalProperties")
    each = [f"of names, each to {_rule(values_of)}"] if isinstance(values_of, Mapping) else []
    return " ".join([_TYPES.get(str(knob.get("type")), ""), *told, *each]).strip()
