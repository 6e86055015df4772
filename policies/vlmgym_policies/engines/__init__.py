"""One engine per file; each imports its heavy library only when it is built."""
