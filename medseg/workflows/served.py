"""What MLflow runs to load a registered model: a copy of this file lies in the model ("models from code").

Nothing is unpickled: the weights are safetensors in the artifact `model`, checked against its SHA256SUMS.
Importing this file sets MLflow's model of the process, so nothing of medseg does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from medseg.workflows.serve import ScanServer


class Served(PythonModel):  # type: ignore[misc]
    """Rows of {"nifti"} to rows of {"mask", "report"}."""

    def load_context(self, context: Any) -> None:
        """Load the networks once; the model's configuration is `serve.SETTINGS`, as the server changed it."""
        self._server = ScanServer(Path(context.artifacts["model"]), **(context.model_config or {}))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, str | None]]:
        """Answer each row."""
        return [self._server.answer(encoded) for encoded in model_input["nifti"]]


set_model(Served())
