"""Tables 1 to 3 and 5 to 7 and Figures 14 and 15 of the paper, declared, and two of its claims that have no table.

The paper's numbers are those it prints; shared/formulas.md of the project says which of them don't fit each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from tailsmith.reproduction.rows import PaperTable, Row

SHOTS = ("overall", "many", "medium", "few")
GROUPS = ("average", "worst_group", "groups_majority", "groups_minority", "groups_unseen")


# Settings for images of 32x32, where a method's paper has others for CIFAR10-LT than for ImageNet-LT; second stages of
# half the training's steps, IRM's penalty after a fifth of them.
CRT, CRT_GROUP, LWS = "crt:head_steps=250", "crt_group:head_steps=250", "lws:scale_steps=250"
GLMC = "glmc:draw_power=0,label_power=1.2,contrast=4"
PACO = "paco:weight=0.01,queue=1024,temperature=0.05"
RESLT = "reslt:beta=0.998"
MISLAS = "mislas:alpha=1,head_steps=250"
IRM = "irm:anneal_steps=100"
DPE = "dpe:learning_rate=0.1,diversity=10"  # the defaults' prototypes hardly move from their random beginning (LOG.md)


METHODS_OF_CLASSES: Mapping[str, str] = {
    **{name: name for name in ("erm", "balanced_softmax")},
    "class-balanced resampling": "resampled:power=0",
    "square-root resampling": "resampled:power=0.5",
    **{name: name for name in ("progressive", "reweight", "cb_loss", "focal", "ldam_drw")},
    **{"crt": CRT, "lws": LWS, "tau_norm": "tau_norm", "ncm": "ncm", "mixup": "mixup", "remix": "remix"},
    **{"cmo": "cmo", "cmo + balanced softmax": "cmo:loss=balanced_softmax"},
    **{"glmc": GLMC, "glmc + balanced softmax": f"{GLMC},loss=balanced_softmax"},
    **{"paco": PACO, "reslt": RESLT, "mislas": MISLAS},
}
METHODS_OF_GROUPS: Mapping[str, str] = {
    **{name: name for name in ("erm", "mixup", "group_dro")},
    **{"irm": IRM, "lisa": "lisa", "balanced_softmax": "balanced_softmax"},
    **{"balanced softmax by group": "logit_adjustment:by=group", "reweight by group": "reweight:by=group"},
    **{"cb_loss by group": "cb_loss:by=group", "crt_group": CRT_GROUP, "dfr": "dfr", "jtt": "jtt", "dpe": DPE},
}


def _shots(*numbers: float) -> dict[str, float]:
    return dict(zip(SHOTS, numbers, strict=True))


def _groups(*numbers: float) -> dict[str, float]:
    return dict(zip(GROUPS, numbers, strict=False))


def _ablation(distance: float, density: float, coverage: float, overall: float, few: float) -> dict[str, float]:
    return {
        "samples.frechet_distance": distance,
        "samples.density": density,
        "samples.coverage": coverage,
        "validation.overall": overall,
        "validation.few": few,
    }


_ERM = Row("ERM", "erm", paper=_shots(43.43, 65.31, 36.46, 8.15))
_BALANCED = Row("Balanced Softmax", "balanced_softmax", paper=_shots(51.0, 60.9, 48.8, 32.1))
_LOSS = Row("LDM-FG (Loss)", set="feedback_loss", paper=_shots(60.41, 66.14, 57.68, 54.1))
_HARDNESS = Row("LDM-FG (Hardness)", set="feedback_hardness", paper=_shots(56.70, 58.07, 55.38, 57.32))
_ENTROPY = Row("LDM-FG (Entropy)", set="feedback_entropy", paper=_shots(64.7, 69.8, 62.3, 59.1))
_TEXT = Row("LDM (txt)", set="text", paper=_shots(57.90, 64.77, 54.62, 50.30))
_IMAGE_TEXT = Row("LDM (txt and img)", set="image_text", paper=_shots(58.92, 56.81, 64.46, 51.10))

TABLES: Mapping[str, PaperTable] = {
    "table-1": PaperTable(
        "Table 1: ImageNet-LT",
        "imagenet-lt",
        (
            _ERM,
            Row("Decouple-cRT", CRT, paper=_shots(47.3, 58.8, 44.0, 26.1)),
            Row("Decouple-LWS", LWS, paper=_shots(47.7, 57.1, 45.2, 29.3)),
            Row("Remix", "remix", paper=_shots(48.6, 60.4, 46.9, 30.7)),
            _BALANCED,
            Row("CMO", "cmo:loss=balanced_softmax", paper=_shots(56.2, 66.4, 53.9, 35.6)),
            Row("Mix-Up GLMC", f"{GLMC},loss=balanced_softmax", paper=_shots(57.21, 64.76, 55.67, 42.19)),
            Row("Fill-Up's training", "fill_up", "text", paper=_shots(63.7, 69.0, 62.3, 54.6)),
            _TEXT,
            _IMAGE_TEXT,
            _LOSS,
            _HARDNESS,
            _ENTROPY,
            Row("as many real images", "balanced_softmax", real_images=True),
        ),
        SHOTS,
        baseline="LDM (txt)",
    ),
    "table-2": PaperTable(
        "Table 2: NICO++",
        "nico++",
        (
            Row("ERM", "erm", paper=_groups(85.3, 35.0)),
            Row("Mixup", "mixup", paper=_groups(84.0, 42.7)),
            Row("GroupDRO", "group_dro", paper=_groups(82.2, 37.8)),
            Row("IRM", IRM, paper=_groups(84.4, 40.0)),
            Row("LISA", "lisa", paper=_groups(84.7, 42.7)),
            Row("BSoftmax", "balanced_softmax", paper=_groups(84.0, 40.4)),
            Row("CRT", CRT_GROUP, paper=_groups(85.2, 43.3)),
            Row("LDM", "erm", "text", paper=_groups(86.02, 32.66)),
            Row("LDM FG (Loss)", "erm", "feedback_loss", paper=_groups(84.55, 45.60)),
            Row("LDM FG (Hardness)", "erm", "feedback_hardness", paper=_groups(84.66, 40.80)),
            Row("LDM FG (Entropy)", "erm", "feedback_entropy", paper=_groups(85.31, 49.20)),
            Row("LDM (txt and img)", "erm", "image_text"),
            Row("DPE", DPE, paper=_groups(float("nan"), 50.0)),
            Row("as many real images", "erm", real_images=True),
        ),
        GROUPS,
        baseline="LDM",
    ),
    "table-3": PaperTable(
        "Table 3: ablation on ImageNet-LT's validation images",
        "imagenet-lt",
        (
            Row("text", set="text", paper=_ablation(18.46, 0.962, 0.690, 59.52, 50.74)),
            Row("+ image", set="image_text_no_dropout", paper=_ablation(14.24, 1.019, 0.676, 59.95, 49.5)),
            Row("+ dropout", set="image_text", paper=_ablation(13.63, 1.06, 0.722, 60.16, 54.79)),
            Row("+ loss", set="feedback_loss", paper=_ablation(18.48, 0.8672, 0.6398, 62.19, 54.78)),
            Row("+ hardness", set="feedback_hardness", paper=_ablation(10.84, 1.07, 0.82005, 57.7, 56.57)),
            Row("+ entropy", set="feedback_entropy", paper=_ablation(21.36, 0.8217, 0.6148, 65.7, 57.7)),
        ),
        tuple(_ablation(0, 0, 0, 0, 0)),
        baseline="text",
    ),
    "table-5": PaperTable(
        "Table 5: combining criteria",
        "imagenet-lt",
        (
            _LOSS,
            _HARDNESS,
            _ENTROPY,
            Row("LDM-FG (Combined)", set="feedback_combined", paper=_shots(62.38, 67.66, 59.96, 56.23)),
        ),
        SHOTS,
        baseline="LDM-FG (Entropy)",
    ),
    "table-6": PaperTable(
        "Table 6: how strong the feedback is, NICO++",
        "nico++",
        (
            Row("omega = 0", "erm", "image_text", paper={"worst_group": 32.66}),
            Row("omega = 0.005", "erm", "entropy_0.005"),
            Row("omega = 0.01", "erm", "entropy_0.01", paper={"worst_group": 45.60}),
            Row("omega = 0.03", "erm", "entropy_0.03", paper={"worst_group": 49.20}),
            Row("omega = 0.05", "erm", "entropy_0.05", paper={"worst_group": 42.10}),
        ),
        GROUPS,
        baseline="omega = 0",
        figure="lines",
    ),
    "table-7": PaperTable(
        "Table 7: Places-LT",
        "places-lt",
        (
            Row("ERM", "erm", paper=_shots(30.2, 45.7, 27.3, 8.2)),
            Row("Decouple-LWS", LWS, paper=_shots(37.6, 40.6, 39.1, 28.6)),
            Row("Balanced Softmax", "balanced_softmax", paper=_shots(38.6, 42.0, 39.3, 30.5)),
            Row("ResLT", RESLT, paper=_shots(39.8, 39.8, 43.6, 31.4)),
            Row("MiSLAS", MISLAS, paper=_shots(40.4, 39.6, 43.3, 36.1)),
            Row("PaCo", PACO, paper=_shots(41.2, 37.5, 47.2, 33.9)),
            Row("Fill-Up's training", "fill_up", "text", paper=_shots(42.6, 45.7, 43.7, 35.1)),
            Row("LDM-FG (Entropy)", set="feedback_entropy", stage_two=True, paper=_shots(42.8, 41.7, 44.9, 40.0)),
        ),
        SHOTS,
        baseline="Balanced Softmax",
    ),
    "figure-14": PaperTable(
        "Figure 14: accuracy against the number of synthetic images",
        "imagenet-lt",
        (
            Row("0", "balanced_softmax"),
            *(Row(str(target), set="feedback_entropy", target=target) for target in (50, 100)),
            Row("150", set="feedback_entropy"),
            *(Row(str(target), set="feedback_entropy", target=target) for target in (300, 500)),
        ),
        SHOTS,
        baseline="150",
        figure="lines",
    ),
    "dose": PaperTable(
        "More of the same, unguided",
        "imagenet-lt",
        (
            Row("0", "balanced_softmax"),
            Row("150", set="image_text"),
            Row("500", set="image_text", target=500),
        ),
        SHOTS,
        baseline="150",
        figure="lines",
    ),
    "figure-15": PaperTable(
        "Figure 15: accuracy against the weight of balanced softmax",
        "imagenet-lt",
        (
            *(Row(str(alpha), set="feedback_entropy", training={"alpha": alpha}) for alpha in (0.0, 0.25, 0.5, 0.75)),
            Row("1.0", set="feedback_entropy"),
        ),
        SHOTS,
        baseline="1.0",
        figure="lines",
    ),
    "every-step": PaperTable(
        "Appendix G: guiding every 5th step against every step",
        "imagenet-lt",
        (
            Row("every 5th step", set="feedback_entropy"),
            Row("every step", set="entropy_every_step"),
        ),
        SHOTS,
        baseline="every 5th step",
    ),
    "mini-batches": PaperTable(
        "Section 4.1: mini-batches half real, half synthetic, against mixing in proportion",
        "imagenet-lt",
        (
            Row("half and half", set="feedback_entropy"),
            Row("in proportion", set="feedback_entropy", training={"resampling": "uniform"}),
        ),
        SHOTS,
        baseline="half and half",
    ),
    "methods": PaperTable(
        "Methods against class imbalance",
        "imagenet-lt",
        tuple(Row(name, settings) for name, settings in METHODS_OF_CLASSES.items()),
        SHOTS,
        baseline="erm",
    ),
    "group-methods": PaperTable(
        "Methods against group imbalance",
        "nico++",
        tuple(Row(name, settings) for name, settings in METHODS_OF_GROUPS.items()),
        GROUPS,
        baseline="erm",
    ),
}
