"""Runs a stock text decoder and its KV cache with fewer tokens from given layers on.

May be imported by sessions and everything above them; imports plans and vision.
"""
