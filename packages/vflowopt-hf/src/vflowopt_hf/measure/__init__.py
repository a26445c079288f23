"""Measures models: time, memory, FLOPs, what a prefill costs, and what pruning changes in the text.

May be imported by checkpoints and the adapter; imports searches and everything below them.
"""
