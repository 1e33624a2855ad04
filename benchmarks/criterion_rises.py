"""Does the criterion of the finished images rise with omega? Mean over 256 images per criterion and scale.

    python benchmarks/criterion_rises.py [--images 256] [--json results/criterion-rises.json]

mini-unclip, text and image conditioned, 30 steps, guidance every 5, guided by an ERM classifier of fashion-lt. The same
requests (seeds, prompts, conditioning images) for every scale.
"""

import argparse
from pathlib import Path

import numpy as np

import tailsmith
from tailsmith.classification.config import TrainConfig
from tailsmith.data.sources.embedded import CLASS_NAMES
from tailsmith.files import write_json
from tailsmith.generation.generator import EMBEDDED, load_generator
from tailsmith.guidance.class_gaussians import fit_class_gaussians
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.criteria import criterion_of
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan_checks import settled
from tailsmith.synthesis.prediction import predict
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.worker import Worker

SCALES = (0.0, 0.01, 0.02, 0.04)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--criteria", nargs="*", default=["entropy", "loss", "hardness"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dataset = tailsmith.load("fashion-lt")
    guide = tailsmith.train(dataset, None, TrainConfig(steps=400, ema_decay=0.99), description="train: erm")
    training = dataset.split("train")
    features = predict(guide, training).features
    gaussians = fit_class_gaussians(features.numpy(), training.labels, len(CLASS_NAMES))
    criteria = {name: criterion_of(name, guide, gaussians) for name in arguments.criteria}
    worker = Worker(load_generator(), training, guide, criteria)
    counts = np.bincount(np.arange(arguments.images) % len(CLASS_NAMES), minlength=len(CLASS_NAMES))
    print(f"{'criterion':12}" + "".join(f"{f'omega {scale:g}':>14}" for scale in SCALES) + "   rises")
    table = {}
    for criterion in arguments.criteria:
        means = []
        for scale in SCALES:
            config = settled(SynthesisConfig(feedback=FeedbackConfig(criterion=criterion, scale=scale)), EMBEDDED)
            plan = make_plan(dataset, counts, config, meta={})
            values = [batch["criterion_value"] for batch in worker.render(plan.table, plan.feedback)]
            means.append(float(np.concatenate(values).mean()))
        table[criterion] = {"means": means, "monotone": bool((np.diff(means) > 0).all())}
        print(
            f"{criterion:12}" + "".join(f"{mean:14.4f}" for mean in means) + f"   {table[criterion]['monotone']}",
            flush=True,
        )
    if arguments.json:
        write_json(arguments.json, {"images": arguments.images, "scales": SCALES, "criteria": table})


if __name__ == "__main__":
    main()
