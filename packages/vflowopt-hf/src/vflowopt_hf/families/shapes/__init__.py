"""Models with random weights of published shapes, and pictures for them, for `vflowopt bench --shape`.

May be imported by families, when they are asked for shapes; imports what they share.
"""
