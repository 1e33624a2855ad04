"""DFR, deep feature reweighting (Kirichenko et al., 2023): the last layer fitted anew on balanced validation images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.batches import Rows
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import Finish, HeldOut, Method, Review, Stage, Task
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero, check_whole


@dataclass(frozen=True)
class DFR(Method):
    """Plain training, then L1-regularised logistic regression on features of half of the validation images.

    Each fit takes as many images of every group (class, where there are no groups), drawn at random; their weights are
    averaged, as in the paper. Features are standardised by those images.
    """

    strength: float = 0.1  # C is its inverse: lambda of the L1 norm, beside the summed loss
    fits: int = 10

    needs_last_layer = True
    fits_validation = True

    def __post_init__(self) -> None:
        check_above_zero(self, ("strength",), "dfr:")
        check_whole(self, ("fits",), "dfr:")

    def stages(self, task: Task) -> list[Stage]:
        held_out_of(task, "dfr")
        return [first_stage(task, "erm")]

    def final(self, task: Task) -> Finish:
        def refit(classifier: Classifier, review: Review) -> Classifier:
            held_out = held_out_of(task, "dfr")
            features = review.held_out(classifier).double().numpy()
            rows = [balanced_rows(strata(held_out), task.config.seed, each) for each in range(self.fits)]
            fitted = [regression(features[each], held_out.labels[each], self.strength) for each in rows]
            layer = last_layer(classifier.module)
            weight, bias = (np.mean([each[part] for each in fitted], axis=0) for part in (0, 1))
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
            return classifier

        return refit


def held_out_of(task: Task, method: str) -> HeldOut:
    """ValueError where the data have no validation images that the method could fit, or not of every class."""
    if task.held_out is None:
        raise UserError(
            f"method {method} fits half of the validation images, and there are none; give the data validation images, "
            "or use another method"
        )
    missing = np.setdiff1d(np.unique(task.labels), task.held_out.labels)
    if len(missing):
        raise UserError(
            f"method {method} fits half of the validation images, which has none of "
            f"{', '.join(task.class_names[each] for each in missing)}; give the data at least two validation images "
            "of every class"
        )
    return task.held_out


def strata(held_out: HeldOut) -> Rows:
    """Groups where all images have one, else classes."""
    return held_out.labels if (held_out.groups < 0).any() else held_out.groups


def balanced_rows(strata: Rows, seed: int, number: int) -> Rows:
    """As many rows of every stratum as the smallest has, without repeats; other ones for each number."""
    rng = np.random.default_rng([seed, number])
    least = np.unique(strata, return_counts=True)[1].min()
    chosen = [rng.permutation(np.flatnonzero(strata == each))[:least] for each in np.unique(strata)]
    return np.sort(np.concatenate(chosen))


def regression(features: np.ndarray, labels: Rows, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression with an L1 norm of standardised weights, [C, D] and [C] for the features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(l1_ratio=1, solver="saga", C=1 / strength, max_iter=200, random_state=0)
    with warnings.catch_warnings():  # stopping early is fine
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features - mean) / scale, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes
        coefficients, intercept = np.concatenate([-coefficients, coefficients]) / 2, np.array([-1, 1]) * intercept / 2
    weight = coefficients / scale
    return weight, intercept - weight @ mean
