"""medseg: medical image segmentation from a scanner's export to a reviewed mask."""

__version__ = "0.1.0"
