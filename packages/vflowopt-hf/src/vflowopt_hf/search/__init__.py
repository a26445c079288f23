"""The search's objective: strategies scored on samples that are encoded once, on one or several processes.

May be imported by measurements and the adapter; imports sessions and everything below them.
"""
