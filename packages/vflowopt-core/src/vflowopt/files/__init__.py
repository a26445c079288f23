"""Files read and written with care: append-only journals and videos.

May be imported by everything; imports nothing but errors.
"""
