"""One command of `vlmgym` per file. Heavy imports are made inside, so that every `--help` is quick."""
