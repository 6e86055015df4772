"""A trained policy behind OpenAI's chat API, hosted by Ray Serve: one deployment, any engine that streams."""
