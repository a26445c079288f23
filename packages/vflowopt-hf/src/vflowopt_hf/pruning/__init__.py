"""One block of ``prune``: its hooks on model, backbone, vision and decoder, and what it tells of each prefill.

May be imported by search and everything above it; imports decoder, plans, vision and hooks.
"""
