"""The manifests as `kubectl apply -k` would send them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted((ROOT / "k8s" / "overlays").iterdir())


def render(folder: Path) -> list[dict[str, Any]]:
    """kubectl is in the extra `dev`; its kustomize needs no cluster."""
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def manifests() -> dict[str, list[dict[str, Any]]]:
    """Documents by overlay."""
    return {folder.name: render(folder) for folder in OVERLAYS}
