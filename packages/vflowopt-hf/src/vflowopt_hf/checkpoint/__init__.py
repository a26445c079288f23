"""Checkpoints as the command line uses them: loaded with their processor, asked questions.

May be imported by the adapter; imports measurements and everything below them.
"""
