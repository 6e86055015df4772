"""Data sets of demonstrations: made once, looked through, trained from."""
