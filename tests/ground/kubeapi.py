"""JSON requests to an API server: the product's own (linkseal.tunnels.lab.kube)."""

from __future__ import annotations

from linkseal.tunnels.lab.kube.api import APPLY, Api, ApiError, Object, Recorder, is_collection, is_namespace

__all__ = ["APPLY", "Api", "ApiError", "Object", "Recorder", "is_collection", "is_namespace"]
