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
    "load_generator": "generation.generator",
    "fit_generator": "synthesis.fitting",
    "Classifier": "classification.classifier",
    "wrap_classifier": "classification.classifier",
    "load_classifier": "classification.classifier",
    "Dataset": "data.dataset",
    "Plan": "synthesis.plan",
    "load": "data.sources.named",
    "plan": "synthesis.planning",
    "train": "runs.training",
    "synthesize": "synthesis.fulfilment",
    "evaluate": "runs.training",
    "run": "experiment",
    "draw_grids": "studies.grid.draw",
    "FeedbackConfig": "guidance.config",
    "RunConfig": "runs.config",
    "SynthesisConfig": "synthesis.config",
    "TrainConfig": "classification.config",
    "FitGeneratorConfig": "generation.fit.config",
    "GridConfig": "studies.grid.config",
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
    from tailsmith.classification.config import TrainConfig as TrainConfig
    from tailsmith.data.dataset import Dataset as Dataset
    from tailsmith.data.sources.named import load as load
    from tailsmith.experiment import run as run
    from tailsmith.generation.fit.config import FitGeneratorConfig as FitGeneratorConfig
    from tailsmith.generation.generator import load_generator as load_generator
    from tailsmith.guidance.class_gaussians import fit_class_gaussians as fit_class_gaussians
    from tailsmith.guidance.config import FeedbackConfig as FeedbackConfig
    from tailsmith.guidance.feedback import FeedbackRecord as FeedbackRecord
    from tailsmith.guidance.feedback import feedback as feedback
    from tailsmith.runs.config import RunConfig as RunConfig
    from tailsmith.runs.training import evaluate as evaluate
    from tailsmith.runs.training import train as train
    from tailsmith.studies.grid.config import GridConfig as GridConfig
    from tailsmith.studies.grid.draw import draw_grids as draw_grids
    from tailsmith.synthesis.config import SynthesisConfig as SynthesisConfig
    from tailsmith.synthesis.fitting import fit_generator as fit_generator
    from tailsmith.synthesis.fulfilment import synthesize as synthesize
    from tailsmith.synthesis.plan import Plan as Plan
    from tailsmith.synthesis.planning import plan as plan
