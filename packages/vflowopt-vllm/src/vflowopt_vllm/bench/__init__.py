"""Serving measured: a server per strategy, real requests to all of them in turns, and tables of what came of it."""
