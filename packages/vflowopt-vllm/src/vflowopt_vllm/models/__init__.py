"""A file per served family: where things are in vLLM's model of it."""
