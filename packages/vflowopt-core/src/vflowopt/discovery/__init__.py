"""What is installed: the plugins of this environment, and what they describe.

May be imported by strategies and everything above them; imports components and methods only.
"""
