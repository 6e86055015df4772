"""What finished runs have shown: read from their directories, compared, and told in tables and figures."""
