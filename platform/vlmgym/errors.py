"""What the command line tells a person on one line, without a traceback."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the text says what, by which rule, and what was given."""
