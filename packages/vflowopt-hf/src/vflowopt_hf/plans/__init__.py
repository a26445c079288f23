"""From observed attention to rows of the decoder: scored units, their plans, the rows of every stage.

May be imported by the decoder and everything above it; imports vision.
"""
