"""Files read and written with care: append-only journals, images and videos.

May be imported by everything; imports nothing but errors.
"""
