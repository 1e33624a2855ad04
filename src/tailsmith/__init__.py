"""Top up the rare classes and groups of an image dataset with synthetic images that your own classifier asks for.

The names below are resolved when first used, so that `import tailsmith` imports neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "feedback": "guidance.feedback",
    "FeedbackRecord": "guidance.feedback",
    "fit_class_gaussians": "guidance.class_gaussians",
    "load_generator": "synthesis.generators",
    "fit_generator": "synthesis.fit_generator.recipe",
    "Classifier": "classification.classifier",
    "wrap_classifier": "classification.classifier",
    "load_classifier": "classification.classifier",
    "Dataset": "data.dataset",
    "Plan": "synthesis.requests",
    "load": "stages",
    "plan": "stages",
    "train": "stages",
    "synthesize": "stages",
    "evaluate": "stages",
    "run": "experiment",
    "draw_grids": "grid",
    "RunConfig": "config",
    "SynthesisConfig": "config",
    "TrainConfig": "config",
    "FitGeneratorConfig": "config",
    "GridConfig": "grid_config",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tailsmith' has no attribute {name!r}")
    return getattr(import_module(f"tailsmith.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from tailsmith.classification.classifier import Classifier as Classifier
    from tailsmith.classification.classifier import load_classifier as load_classifier
    from tailsmith.classification.classifier import wrap_classifier as wrap_classifier
    from tailsmith.config import FitGeneratorConfig as FitGeneratorConfig
    from tailsmith.config import RunConfig as RunConfig
    from tailsmith.config import SynthesisConfig as SynthesisConfig
    from tailsmith.config import TrainConfig as TrainConfig
    from tailsmith.data.dataset import Dataset as Dataset
    from tailsmith.experiment import run as run
    from tailsmith.grid import draw_grids as draw_grids
    from tailsmith.grid_config import GridConfig as GridConfig
    from tailsmith.guidance.class_gaussians import fit_class_gaussians as fit_class_gaussians
    from tailsmith.guidance.feedback import FeedbackRecord as FeedbackRecord
    from tailsmith.guidance.feedback import feedback as feedback
    from tailsmith.stages import evaluate as evaluate
    from tailsmith.stages import load as load
    from tailsmith.stages import plan as plan
    from tailsmith.stages import synthesize as synthesize
    from tailsmith.stages import train as train
    from tailsmith.synthesis.fit_generator.recipe import fit_generator as fit_generator
    from tailsmith.synthesis.generators import load_generator as load_generator
    from tailsmith.synthesis.requests import Plan as Plan
