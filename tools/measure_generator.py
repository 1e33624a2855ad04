"""Train the judges, choose the default guidance scale, and measure mini-unclip on images that it has never seen.

    python tools/measure_generator.py judges  --generator-data generator.parquet --unseen unseen.parquet
    python tools/measure_generator.py quality --unseen unseen.parquet [--guidance-scales 1.5 2 3]

`judges` writes assets/judges/{label,attribute}; `quality` writes assets/mini-unclip/quality.json. The Parquet files
come from tools/build_embedded.py: generator data (both styles, 52,800 photographs), and photographs of the original
test files that neither a task nor the generator uses.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tailsmith import load, load_classifier, load_generator, plan, synthesize
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.prediction import predict_images
from tailsmith.classification.training import train_classifier
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.data.sources import readers
from tailsmith.data.transforms import augmentation
from tailsmith.files import read_json, write_json
from tailsmith.generation.families import family_of
from tailsmith.generation.generator import PRESETS
from tailsmith.generation.reconstruction import reconstruct
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.metrics.nearness import probe, simple_statistics
from tailsmith.reproduction.gap import drawing_share
from tailsmith.studies.nearness import nearness
from tailsmith.synthesis.config import SynthesisConfig

ASSETS = Path(__file__).parents[1] / "src" / "tailsmith" / "assets"
QUALITY = ASSETS / "mini-unclip" / "quality.json"
JUDGE = TrainConfig(
    steps=2500, batch_size=128, learning_rate=0.1, ema_decay=0.998, evaluate_every=500, precision="bf16"
)


def train_judges(training: Dataset, unseen: Dataset) -> dict[str, float]:
    """Two classifiers on the generator's own real images; accuracy on the tasks' real test photographs."""
    images, held_out = Images(training, 32), Images(unseen, 32)
    test = load("fashion-lt").split("test")
    accuracy: dict[str, float] = {}
    parts = {
        "label": (training.class_names, training.labels, unseen.labels, test.labels),
        "attribute": (training.attribute_names, training.attributes, unseen.attributes, test.attributes),
    }
    for what, (names, labels, held_labels, test_labels) in parts.items():
        config = JUDGE if what == "label" else replace(JUDGE, steps=800)
        steps = train_classifier(
            config,
            images,
            labels,
            np.zeros(len(labels), dtype=bool),
            names,
            validation=(held_out, held_labels),
            augment=augmentation("crop-flip"),
        )
        for record in tqdm(steps, total=config.steps, desc=f"judge: {what}"):
            judge = record.classifier
        assert judge is not None
        judge.save(ASSETS / "judges" / what)
        accuracy[what] = float((predict_images(judge, Images(test, 32))[0].argmax(1).numpy() == test_labels).mean())
    write_json(ASSETS / "judges" / "accuracy.json", accuracy)
    return accuracy


def sample(pipe: Any, prompts: list[str], guidance_scale: float, steps: int = 30) -> torch.Tensor:
    """Text-conditioned samples -> uint8 [n, 3, H, W]; image i has seed i."""
    done, family = [], family_of(pipe)
    for start in range(0, len(prompts), 100):
        batch = prompts[start : start + 100]
        nothing = torch.zeros(len(batch), *family.embedding_shape(pipe))
        with family.around(pipe):
            images = pipe(
                **family.arguments(pipe, batch, nothing, guidance_scale),
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(start + i) for i in range(len(batch))],
                output_type="pt",
            ).images
        done.append((images.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(done)


def judge_samples(pipe: Any, names: Dataset, guidance_scale: float, per_prompt: int) -> dict[str, float]:
    """Prompts name garment and context, equally often."""
    pairs = [(c, a) for c in range(len(names.class_names)) for a in range(len(names.attribute_names))] * per_prompt
    prompts = [f"{names.class_names[c]} in {names.attribute_names[a]}" for c, a in pairs]
    images = sample(pipe, prompts, guidance_scale)
    judged = {
        what: predict_images(load_classifier(ASSETS / "judges" / what), images)[0].argmax(1).numpy()
        for what in ("label", "attribute")
    }
    labels, attributes = np.array(pairs).T
    return {
        "guidance_scale": guidance_scale,
        "images": len(prompts),
        "judge_label_accuracy": float((judged["label"] == labels).mean()),
        "judge_attribute_accuracy": float((judged["attribute"] == attributes).mean()),
        "per_class": {
            name: float((judged["label"] == labels)[labels == c].mean()) for c, name in enumerate(names.class_names)
        },  # type: ignore[dict-item]
    }


def reconstructions(pipe: Any, unseen: Dataset) -> dict[str, float]:
    """L1 of encode-decode of images in [-1, 1], both styles; and whether a probe tells its photographs from others."""
    pixels = Images(unseen, 32)[:].numpy()
    shown = reconstruct(pipe, pixels)
    photographs = np.flatnonzero([str(each).endswith("photograph") for each in unseen.table["image_id"]])
    real, made = np.array_split(np.random.default_rng(0).permutation(photographs), 2)  # unpaired
    found = probe(simple_statistics(pixels[real]), simple_statistics(shown[made]))
    error = np.abs(shown.astype(np.float64) - pixels).mean() / 127.5
    return {"reconstruction_l1": float(error), "probe_accuracy_reconstruction": found.accuracy}


def image_text(dropout: float) -> dict[str, float]:
    """Unguided samples of fashion-lt topped up to 150, of text and a real training image, guided by the text."""
    task, judge = load("fashion-lt"), load_classifier(ASSETS / "judges" / "label")
    config = SynthesisConfig(embedding_dropout=dropout, guided_by="text", feedback=FeedbackConfig(scale=0.0))
    with TemporaryDirectory() as folder:
        made = synthesize(plan(task, 150, config=config), task, folder)
        found = nearness(made, task, judge).overall
        drawings = drawing_share(made, task)
    return {
        "probe_accuracy_image_text": found["probe_accuracy"],
        "judge_label_accuracy_image_text": found["judge_agreement"],
        "drawings_image_text": drawings,
        "density_image_text": found["density"],
        "coverage_image_text": found["coverage"],
        "embedding_dropout_image_text": dropout,
        "images_image_text": found["images"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["judges", "quality"])
    parser.add_argument("--generator-data", type=Path)
    parser.add_argument("--unseen", type=Path, required=True)
    parser.add_argument("--guidance-scales", type=float, nargs="*", default=[1.5, 2.0, 3.0])
    parser.add_argument("--per-prompt", type=int, default=10)
    parser.add_argument("--embedding-dropout", type=float, default=0.5, help="of the image + text samples")
    arguments = parser.parse_args()
    unseen = readers.read_unchecked(arguments.unseen)
    if arguments.part == "judges":
        print(train_judges(readers.read_unchecked(arguments.generator_data), unseen))
        return
    pipe = load_generator()
    rows = [judge_samples(pipe, unseen, scale, arguments.per_prompt) for scale in tqdm(arguments.guidance_scales)]
    default = PRESETS["mini-unclip"].guidance_scale
    chosen = next((row for row in rows if row["guidance_scale"] == default), rows[0])
    accuracy = read_json(ASSETS / "judges" / "accuracy.json")
    report = {
        **reconstructions(pipe, unseen),
        "judge_label_accuracy": chosen["judge_label_accuracy"],
        "judge_attribute_accuracy": chosen["judge_attribute_accuracy"],
        "judge_real_test_accuracy": accuracy["label"],
        "judge_attribute_real_test_accuracy": accuracy["attribute"],
        "guidance_scale": chosen["guidance_scale"],
        "images": chosen["images"],
        **image_text(arguments.embedding_dropout),
        "unseen_images": len(unseen),
        "sweep": rows,
    }
    write_json(QUALITY, report)
    for key, value in report.items():
        print(key, value)


if __name__ == "__main__":
    main()
