"""Budgets that people have, bytes and seconds, and what prefills cost on a machine.

May be imported by searches and everything above them; imports strategies and the adapter contract.
"""
