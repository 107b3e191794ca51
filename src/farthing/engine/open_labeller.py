"""Opens what gives labels: a model with a classification head, or a folder with a cascade of `farthing distill`."""

from pathlib import Path

from farthing.engine.cascade_classifier import BEST, open_cascade
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.engine.labelling import Labeller
from farthing.errors import InvalidRequest
from farthing.models import load_model
from farthing.models.hub import find_model, is_cascade

__all__ = ["open_labeller"]


def open_labeller(
    path_or_name: str | Path, config: ClassifierConfig, *, weights: str | None = None, point: str = BEST
) -> Labeller:
    """weights: re-block a model to this format. point: where a cascade works; a single model has none.

    Raises ModelNotFound, UnsupportedModel, CorruptModel; InvalidRequest for a model without labels, an unknown point,
    and for weights of a cascade.
    """
    path = find_model(path_or_name)
    if not is_cascade(path):
        return Classifier(load_model(path_or_name, weights=weights), config)
    if weights is not None:
        raise InvalidRequest(f"{path} is a cascade, whose thresholds hold in its own formats; leave weights out")
    return open_cascade(path, config, point)
