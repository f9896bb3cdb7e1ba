"""Stored values of frames, decoded within bounds: compressed ones in a process of their own.

decode.py is the way in; codecs.py says which library decodes which transfer syntax.
"""
