"""Looks at the vision tower: which attention its patches receive, and which units it encodes.

May be imported by everything but families' contract; imports that contract only.
"""
