"""What all hooks on a model need: to be put on and taken off, the forward that runs in a thread, compiled modules.

May be imported by vision and everything above it; imports no other room.
"""
