"""The model of an app in tests."""

from tests.helpers.tiny import make_backbone
from ui.engine.models import Models
from ui.engine.settings import AppLimits


def tiny_models(limits: AppLimits | None = None) -> Models:
    """A tiny backbone in this process, without adapters until an engine has been started."""
    return Models(lambda progress: make_backbone(), limits)
