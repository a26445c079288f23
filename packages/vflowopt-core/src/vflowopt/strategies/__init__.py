"""Strategies, their file format, the shipped ones, and the space that a search walks through.

May be imported by budgets and everything above them; imports plans, components and what is installed.
"""
