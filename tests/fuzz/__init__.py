"""Bad input for every command, generated from a seed: it is refused in a few lines, never with a traceback."""
