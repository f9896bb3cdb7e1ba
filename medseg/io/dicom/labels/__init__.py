"""Structures and segmentations: read as label maps on a scan's grid, and written from them.

label.py finds what belongs to a scan; rtstruct.py and seg.py read, rtstruct_write.py and seg_write.py write.
"""
