"""MLflow's model registry: a model folder as a servable version, and the alias that says which one is in use.

`MlflowClient` is used directly, as in `store`. What `save_model` writes names folders of this machine; those
names are taken out again.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as find_installed
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.core.errors import ConfigError, ResourceError
from medseg.tracking import address, place
from medseg.tracking.runs import close_to_others, find_folder, list_failures, look_up
from medseg.tracking.spool import is_run_id

ALIAS = "champion"
ARTIFACT = "model"  # the run's folder of servable models, one for each time it was trained further
SHA256 = "medseg.model_sha256"
REQUIREMENTS = ("torch", "monai", "mlflow")  # beside medseg itself: what decides bits or serves


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Args:
        name: Of the registered model.
        number: Of the version, "1", "2", ...
        run_id: The run it came from.
        tags: What is known of it.
    """

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


def save_servable(code: Path, model: Path, out: Path, settings: Mapping[str, Any]) -> None:
    """Write a folder that `mlflow models serve` takes.

    Args:
        code: The file that MLflow runs to load the model; it is copied.
        model: The model folder; it is copied.
        out: Must not exist.
        settings: What the code may be told, with its defaults.
    """
    place.prepare_mlflow()
    with warnings.catch_warnings():
        # MLflow 3.17 warns of its own type hints when it is imported, and advises to store a scan.
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        columns = Schema([ColSpec("string", "nifti")])
        answers = Schema([ColSpec("string", name, required=name == "report") for name in ("mask", "report")])
        pins = [f"{name}=={find_installed(name).partition('+')[0]}" for name in REQUIREMENTS]
        mlflow.pyfunc.save_model(
            out,
            python_model=str(code),
            artifacts={"model": str(model)},
            signature=ModelSignature(columns, answers),
            pip_requirements=[f"medseg=={__version__}", *pins],
            model_config=dict(settings),
        )
    _hide_folders(out)


def _hide_folders(out: Path) -> None:
    """Replace the absolute paths in MLmodel, which nothing reads, by names."""
    from mlflow.models import Model

    about = Model.load(str(out))
    flavor = about.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    about.save(str(out / "MLmodel"))


class Registry:
    """The registry beside the tracking store.

    Every method raises ResourceError, REGISTRY_LOST, where the store cannot be reached or refuses.
    """

    def __init__(self) -> None:
        place.prepare_mlflow()
        from mlflow.tracking import MlflowClient

        self._store = address.find_store()
        with reached():
            if not address.is_server(self._store):
                place.make_home()
            self._client: Any = MlflowClient(self._store, self._store)

    def find_run(self, run_id: str) -> str:
        """Return the store's id of a run, given that or ours.

        Raises:
            ConfigError: RUN_UNTRACKED.
        """
        with reached():
            everywhere = [one.experiment_id for one in self._client.search_experiments()]
            run = look_up(self._client, everywhere, run_id) if is_run_id(run_id) else None
            if run is not None:
                return str(run.info.run_id)
        raise ConfigError(
            "the run is not in this tracking store",
            hint="`medseg train RUN` logs it (without --no-tracking)",
            code="RUN_UNTRACKED",
        )

    def find_version(self, name: str, sha256: str) -> Version | None:
        """Return the version that holds a model with this hash."""
        with reached():
            for found in self._client.search_model_versions(f"name = '{name}'"):
                if found.tags.get(SHA256) == sha256:
                    return _read(found)
        return None

    def add_version(self, name: str, run_id: str, folder: Path, sha256: str) -> Version:
        """Upload a servable folder to a run and register it.

        Args:
            name: Of the registered model; it is made when it is not there.
            run_id: The run.
            folder: Of `save_servable`.
            sha256: Of the model.
        """
        from mlflow.exceptions import MlflowException

        with reached():
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            place_there = f"{ARTIFACT}/{sha256[:12]}"
            self._client.log_artifacts(run_id, str(folder), place_there)
            uri = str(self._client.get_run(run_id).info.artifact_uri)
            self._close(uri, place_there)
            made = self._client.create_model_version(
                name, f"{uri}/{place_there}", run_id, tags={SHA256: sha256}
            )
        return _read(made)

    def add_table(self, run_id: str, name: str, tree: Mapping[str, Any]) -> None:
        """Store plain data as JSON artifact `name` of a run."""
        folder, _, file_name = name.rpartition("/")
        with reached(), tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / file_name
            path.write_text(json.dumps(tree, sort_keys=True), encoding="utf-8")
            self._client.log_artifact(run_id, str(path), folder or None)
            self._close(str(self._client.get_run(run_id).info.artifact_uri), folder)

    def read_table(self, run_id: str, name: str) -> dict[str, Any]:
        """Return what `add_table` stored; {} where it, or its run, is not there any more."""
        from mlflow.exceptions import MlflowException

        folder = name.rpartition("/")[0]
        with reached(), tempfile.TemporaryDirectory() as scratch:
            try:
                known = {entry.path for entry in self._client.list_artifacts(run_id, folder or None)}
            except MlflowException as error:
                if not is_unknown(error):
                    raise
                return {}
            if name not in known:
                return {}
            path = self._client.download_artifacts(run_id, name, scratch)
            return dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def find_champion(self, name: str) -> Version | None:
        """Return the version in use; None where none was ever promoted, or it was deleted."""
        from mlflow.exceptions import MlflowException

        with reached():
            try:
                return _read(self._client.get_model_version_by_alias(name, ALIAS))
            except MlflowException as error:
                if not is_unknown(error):
                    raise
        return None

    def set_champion(self, version: Version) -> None:
        """Move the alias."""
        with reached():
            self._client.set_registered_model_alias(version.name, ALIAS, version.number)

    def link(self, version: Version) -> str:
        """Return a link to a version in the web interface."""
        server = address.name_server(self._store)
        return address.link_to(server, f"/models/{version.name}/versions/{version.number}")

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with reached():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, version.number, key, value)

    def _close(self, uri: str, folder: str) -> None:
        """Let only the owner read what was written to a local folder."""
        root = find_folder(uri)
        if root is not None:
            for path in [path for path in (root / folder).rglob("*") if path.is_file()]:
                close_to_others(root, path)


@contextmanager
def reached() -> Iterator[None]:
    """Turn what a dead or refusing store raises into an error; its text may hold credentials."""
    try:
        yield
    except list_failures() as error:
        cause = type(error.__context__ or error).__name__
        raise ResourceError(
            f"the tracking store could not be used ({cause})",
            hint="see MLFLOW_TRACKING_URI, or start the server",
            code="REGISTRY_LOST",
        ) from error


def is_unknown(error: Exception) -> bool:
    """Whether MLflow says that something is not there; of a missing alias it says that the value is wrong."""
    return getattr(error, "error_code", "") in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def _read(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", dict(found.tags))
