"""The kinds of faults, by name. Each module here has those of one idea, and is imported once it is asked for."""

from __future__ import annotations

from importlib import import_module

from tests.faults.campaign import Kind

MODULES = {
    "pickles": "pickles", "zips": "zips", "inkml": "ink", "strokes": "ink", "images": "images", "bombs": "images",
    "labels": "labels", "formulas": "labels", "configs": "settings", "run_folders": "settings",
    "checkpoints": "networks",
    "exported": "networks", "predictions": "predictions", "reports": "pages", "markup": "pages", "uploads": "pages",
    "stores": "stores", "writes": "writes", "kills": "kills", "kills_of_two": "kills",
    "memory": "memory", "memory_reading": "memory", "races": "races",
    "races_layouts": "races", "races_runs": "races", "numbers": "values", "sizes": "values",
}  # fmt: skip


def kind_of(name: str) -> Kind:
    kinds = import_module(f"tests.faults.kinds.{MODULES[name]}").KINDS
    return next(kind for kind in kinds if kind.name == name)
