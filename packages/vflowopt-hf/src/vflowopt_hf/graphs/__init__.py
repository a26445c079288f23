"""Work of known shape is recorded once and replayed, so that the host need not launch it kernel by kernel.

May be imported by vision and everything above it; imports nothing of this package but hooks.
"""
