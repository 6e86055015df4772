"""The games, one per file; the file name is the id. Files that start with an underscore are shared parts."""
