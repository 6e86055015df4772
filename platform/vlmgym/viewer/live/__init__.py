"""The page on which a served policy is watched playing, and the server behind it."""
