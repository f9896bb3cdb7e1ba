"""medseg: medical image segmentation from a scanner's export to a reviewed mask."""

import os

# MONAI imports MLflow, and MLflow reports usage unless it is told not to before that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

__version__ = "0.1.0"
