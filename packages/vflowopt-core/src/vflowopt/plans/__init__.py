"""What happens to every visual token of a unit, as data.

May be imported by strategies and everything above them; imports components only.
"""
