"""Methods against class imbalance, each against a slow loop, a closed form or a case worked by hand."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colours import colours
from tailsmith.classification.backbones import last_layer
from tailsmith.classification.classifier import load_classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.heads import Branches, Cosine, Prototypes, checked_head, put_head
from tailsmith.classification.methods import METHODS, method_of
from tailsmith.classification.methods.contract import Batch, Examples, Moment, Start, Task, generator
from tailsmith.classification.methods.glmc import MixedTwice, siamese
from tailsmith.classification.methods.mislas import label_aware_smoothing, shifting, smoothing
from tailsmith.classification.methods.mixup import Mixing, Rarer
from tailsmith.classification.methods.paco import parametric_contrast
from tailsmith.classification.methods.parts import ScaledLinear, with_head
from tailsmith.classification.methods.reslt import branch_classes
from tailsmith.classification.methods.reweighting import effective_weights
from tailsmith.classification.prediction import class_hits, mean_class_accuracy, predict_images
from tailsmith.classification.schedule import sgd
from tailsmith.classification.training import Groups, check_train_config, train_classifier, untrained_classifier

NAMES = ("red", "green", "blue")
TINY = TrainConfig(image_size=8, steps=6, batch_size=16, learning_rate=0.05, evaluate_every=3)
IMAGES, LABELS = colours((40, 20, 10))
COUNTS = np.array([40, 20, 10])
NOTHING = np.zeros(70, bool)
LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
OWN = torch.tensor([0, 1, 2, 2, 0])
BATCH = Batch(torch.zeros(5, 3, 8, 8), OWN, np.array([0, 40, 60, 61, 1]))


def with_(**changes) -> TrainConfig:
    return dataclasses.replace(TINY, **changes)


def task(config: TrainConfig = TINY, **changes) -> Task:
    return dataclasses.replace(Task(config, LABELS, LABELS - 9, NOTHING, NAMES), **changes)


def stages(method: str, **changes):
    return method_of(method).stages(task(with_(method=method), **changes))


def objective(method: str, **changes):
    return stages(method, **changes)[0].objective


def start(classifier) -> Start:
    return Start(torch.device("cpu"), classifier, classifier, pytest.fail)


def drawn(stream, steps: range) -> np.ndarray:
    return np.concatenate([stream.next(Moment(step, 0.0, 0.0, pytest.fail)) for step in steps])


def train(method: str, **options):
    arguments = {"images": IMAGES, "labels": LABELS, "is_synthetic": NOTHING, "class_names": NAMES} | options
    return list(train_classifier(with_(method=method), **arguments))


# ----------------------------------------------------------------------------------------------------------
# Losses, image by image.


def test_focal_loss_image_by_image():
    found = objective("focal:gamma=1.5")(LOGITS, LOGITS, BATCH, 0.0)
    for each, z, y in zip(found, LOGITS.double(), OWN, strict=True):
        p = z.exp()[y] / z.exp().sum()
        assert each.item() == pytest.approx(-((1 - p) ** 1.5 * p.log()).item(), rel=1e-5)
    torch.testing.assert_close(
        objective("focal:gamma=0")(LOGITS, LOGITS, BATCH, 0.0), F.cross_entropy(LOGITS, OWN, reduction="none")
    )


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("reweight", 1 / COUNTS),
        ("reweight:power=0.5", COUNTS**-0.5),
        ("cb_loss:beta=0.9", [0.1 / (1 - 0.9**40), 0.1 / (1 - 0.9**20), 0.1 / (1 - 0.9**10)]),
        ("cb_loss:beta=0", np.ones(3)),
    ],
)
def test_weights_of_mean_one_multiply_the_loss_of_an_images_class(method, weights):
    expected = torch.tensor(np.array(weights) / np.mean(weights)).float()[OWN]
    plain = F.cross_entropy(LOGITS, OWN, reduction="none")
    torch.testing.assert_close(objective(method)(LOGITS, LOGITS, BATCH, 0.0), plain * expected)


def test_the_effective_number_is_a_sum_of_powers():
    for n, weight in zip((1, 4, 9), effective_weights(np.array([1, 4, 9]), 0.8), strict=True):
        assert 1 / weight == pytest.approx(sum(0.8**k for k in range(n)))


def test_logit_adjustment_shifts_by_the_log_prior_and_one_is_balanced_softmax():
    share = torch.tensor(COUNTS / COUNTS.sum()).float()
    expected = F.cross_entropy(LOGITS + 2 * share.log(), OWN, reduction="none")
    torch.testing.assert_close(objective("logit_adjustment:tau=2")(LOGITS, LOGITS, BATCH, 0.0), expected)
    one, other = (objective(each)(LOGITS, LOGITS, BATCH, 0.0) for each in ("logit_adjustment", "balanced_softmax"))
    torch.testing.assert_close(one, other)


def test_by_group_the_prior_is_that_of_the_images_attribute():
    groups = LABELS * 2 + (np.arange(70) % 4 == 0)
    groups[LABELS == 2] = 4  # no image of class 2 has attribute 1
    losses = objective("logit_adjustment:by=group", groups=groups, num_attributes=2)(LOGITS, LOGITS, BATCH, 0.0)
    for loss, z, y, row in zip(losses, LOGITS, OWN, BATCH.rows, strict=True):
        a = groups[row] % 2
        counts = [((groups // 2 == c) & (groups % 2 == a)).sum() for c in range(3)]
        shifted = z + torch.tensor([math.log(n or 0.5) for n in counts])
        assert loss.item() == pytest.approx((shifted.logsumexp(0) - shifted[y]).item(), rel=1e-5)


def test_ldam_holds_back_the_label_by_its_margin_and_weighs_late():
    loss = objective("ldam_drw:margin=0.4,scale=20,beta=0.9,reweight_from=0.5")
    margins = 0.4 * COUNTS**-0.25 / 10**-0.25
    late = np.array([0.1 / (1 - 0.9**n) for n in COUNTS])
    late /= late.mean()
    for progress in (0.4, 0.5):
        for each, z, y in zip(loss(20 * LOGITS, LOGITS, BATCH, progress), LOGITS, OWN, strict=True):
            held = 20 * (z - torch.eye(3)[y] * torch.tensor(margins).float())
            expected = (held.logsumexp(0) - held[y]).item() * (late[y] if progress == 0.5 else 1)
            assert each.item() == pytest.approx(expected, rel=1e-4)


def test_the_weight_of_ldam_is_by_images_of_both_sources_and_its_head_has_its_scale():
    classifier = train("ldam_drw:scale=17")[-1].classifier
    (head,) = [each for each in classifier.modules() if isinstance(each, Cosine)]
    assert head.scale == 17 and classifier.head == "cosine"


# ----------------------------------------------------------------------------------------------------------
# Mixing.


def examples(count: int, seed: int, labels) -> Examples:
    images = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Examples(np.arange(count) + 10 * seed, torch.tensor(labels), (images,))


def test_mixup_mixes_pixels_and_labels_by_one_share():
    each, shares = examples(4, 1, [0, 1, 2, 3]), []
    for seed in range(200):
        batch = Mixing(0.5, 4)((each,), generator(seed), 0.0)
        order = torch.randperm(4, generator=generator(seed))
        if (order == torch.arange(4)).all():
            continue
        moved = int(torch.nonzero(each.labels != each.labels[order])[0])
        share = float(batch.targets[moved, each.labels[moved]])
        images = share * each.views[0] + (1 - share) * each.views[0][order]
        torch.testing.assert_close(batch.images, images, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(4))
        assert batch.rows.tolist() == each.rows.tolist() and batch.labels.tolist() == [0, 1, 2, 3]
        shares.append(share)
    # Beta(1/2, 1/2): mean 1/2, variance 1/8
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08) and np.var(shares) == pytest.approx(1 / 8, abs=0.03)


def test_remix_gives_the_rarer_class_the_label_while_it_has_enough_of_the_image():
    counts, kappa, tau = torch.tensor([90, 30, 10]), 3.0, 0.4
    for kept in (0.1, 0.39, 0.5, 0.61, 0.9):
        pairs = [(i, j) for i in range(3) for j in range(3)]
        first, second = (torch.tensor(each) for each in zip(*pairs, strict=True))
        for (i, j), share in zip(pairs, Rarer(counts, kappa, tau)(first, second, kept), strict=True):
            expected = kept
            if counts[i] / counts[j] >= kappa and kept < tau:
                expected = 0.0
            elif counts[i] / counts[j] <= 1 / kappa and 1 - kept < tau:
                expected = 1.0
            assert share.item() == pytest.approx(expected), (i, j, kept)


def test_glmc_mixes_the_same_pairs_twice():
    one, other = examples(3, 1, [0, 1, 2]), examples(3, 2, [2, 2, 0])
    batch = MixedTwice(3)((one, other), generator(5), 0.0)
    assert batch.images.shape == (6, 3, 6, 6) and batch.rows.tolist() == [10, 11, 12] * 2
    kept = float(batch.targets[0, 0])
    torch.testing.assert_close(batch.images[:3], kept * one.views[0] + (1 - kept) * other.views[0])
    pasted = (batch.images[3:] == other.views[0]).all(1)
    assert ((batch.images[3:] == one.views[0]).all(1) | pasted).all()
    torch.testing.assert_close(batch.targets[3:, :][0, 2], pasted[0].float().mean())


# ----------------------------------------------------------------------------------------------------------
# GLMC, PaCo, ResLT, MiSLAS.


@pytest.mark.parametrize("loss", ["erm", "balanced_softmax"])
def test_glmcs_objective_written_out(loss):
    classifier = untrained_classifier(TINY, NAMES)
    (stage,) = stages(f"glmc:loss={loss},label_power=0.5,contrast=3")
    heads = stage.objective
    heads.begin(start(classifier))
    heads.eval()
    features = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    logits = LOGITS[:4]
    targets = torch.softmax(LOGITS[1:5], 1)
    batch = Batch(torch.zeros(4), torch.tensor([0, 1, 0, 1]), np.array([0, 40, 0, 40]), targets)
    found = heads(logits, features, batch, 0.6).mean().item()
    weights = COUNTS**-0.5 / np.mean(COUNTS**-0.5)
    share, total = torch.tensor(COUNTS / 70).log().float(), 0.0
    for view in (slice(0, 2), slice(2, 4)):  # the mean over each mix
        for k in range(*view.indices(4)):
            plain = -(targets[k] * heads.head(features[k]).log_softmax(0)).sum()
            balanced = -(targets[k] * torch.tensor(weights) * logits[k].log_softmax(0)).sum()
            if loss == "balanced_softmax":
                balanced = -(targets[k] * (logits[k] + share).log_softmax(0)).sum()
            total += ((1 - 0.36) * plain + 0.36 * balanced).item() / 2
    z = heads.projector(features)
    p = heads.predictor(z)
    cos = F.cosine_similarity
    alike = -(cos(p[:2], z[2:]).mean() + cos(p[2:], z[:2]).mean()) / 2
    assert found == pytest.approx(total + 3 * alike.item(), rel=1e-4)


def test_glmcs_second_stream_draws_by_the_power_of_the_count():
    stream = stages("glmc:draw_power=1")[0].streams[1](start(None))
    shares = np.bincount(LABELS[drawn(stream, range(1, 500))], minlength=3) / (499 * 16)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)


def test_no_gradient_flows_into_what_is_compared_with():
    predicted, projected = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    siamese(predicted, projected.detach()).sum().backward()
    assert predicted.grad is not None and projected.grad is None


def test_parametric_contrast_image_by_image():
    draws = torch.Generator().manual_seed(3)
    centres, similar = torch.randn(4, 3, generator=draws), torch.randn(4, 6, generator=draws)
    own, labels = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 0, 1, -1])
    similar[:, 5] = -torch.inf  # a place of the queue that holds nothing
    found = parametric_contrast(centres, similar, own, labels, 0.3)
    for i in range(4):
        total = sum(centres[i].exp()) + sum(similar[i, :5].exp())
        loss, weights = -(centres[i, own[i]].exp() / total).log(), 1.0
        for k in range(5):
            if labels[k] == own[i]:
                loss, weights = loss - 0.3 * (similar[i, k].exp() / total).log(), weights + 0.3
        assert found[i].item() == pytest.approx((loss / weights).item(), rel=1e-5)


def test_pacos_keys_come_from_an_average_and_wait_in_a_queue():
    classifier = untrained_classifier(TINY, NAMES)
    (stage,) = stages("paco:queue=12,dimension=4,momentum=0.75")
    contrast = stage.objective
    contrast.begin(start(classifier))
    before = contrast.key_classifier.module.head.weight.clone()
    with torch.no_grad():
        classifier.module.head.weight.add_(1)
    views = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(BATCH, others=views)
    assert contrast(LOGITS, torch.rand(5, 128), batch, 0.0).isfinite().all()
    torch.testing.assert_close(contrast.key_classifier.module.head.weight, before + 0.25)
    assert contrast.labels.tolist() == [*OWN.tolist(), *[-1] * 7] and contrast.place == 5
    torch.testing.assert_close(contrast.keys[:5].norm(dim=1), torch.ones(5))
    for _ in range(2):
        contrast(LOGITS, torch.rand(5, 128), batch, 0.0)
    assert contrast.labels.tolist() == [*OWN[2:].tolist(), *OWN[3:].tolist(), *OWN.tolist(), *OWN[:2].tolist()][:12]
    assert contrast.place == 3
    trained = {name for name, each in contrast.named_parameters() if each.requires_grad}
    assert trained == {f"projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}


def test_reslts_branches_see_the_classes_that_are_theirs():
    counts = np.array([500, 3, 40, 100, 9, 7, 1, 250, 60, 20])
    masks = branch_classes(counts, 0.8, 0.3)
    assert masks[0].all()
    assert sorted(counts[~masks[1]]) == [250, 500] and sorted(counts[masks[2]]) == [1, 3, 7]


def test_reslts_loss_written_out():
    classifier = with_head("branches", 1)(untrained_classifier(TINY, NAMES))
    loss = objective("reslt:beta=0.7,exponent=0.5,medium=0.67,few=0.34")
    loss.begin(start(classifier))
    (head,) = [each for each in classifier.modules() if isinstance(each, Branches)]
    assert head.exponent == 0.5
    features = torch.randn(5, 128, generator=torch.Generator().manual_seed(2))
    found = loss(head(features), features, BATCH, 0.0)
    for i, y in enumerate(OWN.tolist()):
        logits = []
        for residual, last in zip(head.residuals, head.lasts, strict=True):
            own = features[i] + (residual.weight @ features[i] + residual.bias).clamp_min(0)
            weight = torch.stack([w / w.norm() ** 0.5 for w in last.weight])
            logits.append(weight @ own + last.bias)
        of = [(z.logsumexp(0) - z[y]).item() for z in (*logits, sum(logits))]
        mine = of[0] + (of[1] if y > 0 else 0) + (of[2] if y > 1 else 0)  # 2 of 3 classes, the rarest one
        assert found[i].item() == pytest.approx(0.3 * of[3] + 0.7 * mine, rel=1e-4)


def test_label_aware_smoothing_is_concave_between_its_ends():
    counts = np.array([100, 55, 10])
    epsilon = smoothing(counts, 0.4, 0.1)
    assert epsilon == pytest.approx([0.4, 0.1 + 0.3 * math.sin(math.pi * 45 / (2 * 90)), 0.1])
    assert epsilon[1] > 0.25
    found = label_aware_smoothing(epsilon)(LOGITS, LOGITS, BATCH, 0.0)
    for each, z, y in zip(found, LOGITS, OWN, strict=True):
        log_p, eps = z.log_softmax(0), epsilon[y]
        assert each.item() == pytest.approx((-(1 - eps) * log_p[y] - eps * log_p.mean()).item(), rel=1e-4)


def test_in_the_second_stage_of_mislas_statistics_shift_and_the_head_is_slow():
    classifier = untrained_classifier(TINY, NAMES)
    shifted = shifting(classifier)
    norms = [each for each in shifted.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms and all(each.training for each in norms)
    trained = [name for name, each in shifted.named_parameters() if each.requires_grad]
    assert sorted(trained) == ["module.head.linear.bias", "module.head.linear.weight", "module.head.scale"]
    (layer,) = [each for each in shifted.modules() if isinstance(each, ScaledLinear)]
    method = method_of("mislas:head_factor=0.2")
    assert method._slower(shifted) == {layer.linear.weight: 0.2, layer.linear.bias: 0.2}


def test_a_slower_parameter_takes_its_fraction_of_the_step():
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer)
    optimizer = sgd(with_(weight_decay=0.1), layer, {layer.bias: 0.25})
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["pace"]
    F.linear(torch.ones(1, 3), layer.weight, layer.bias).sum().backward()
    optimizer.step()
    for name, rate in (("weight", 0.5), ("bias", 0.125)):
        old = getattr(before, name)
        step = rate * 1.9 * (1 + 0.1 * old)  # Nesterov's first step, momentum 0.9
        torch.testing.assert_close(getattr(layer, name), old - step)


# ----------------------------------------------------------------------------------------------------------
# Drawing.


@pytest.mark.parametrize(("power", "shares"), [(1.0, COUNTS / 70), (0.0, [1 / 3] * 3), (0.5, COUNTS**0.5)])
def test_classes_are_drawn_by_the_power_of_their_count(power, shares):
    stream = stages(f"resampled:power={power}")[0].streams[0](start(None))
    rows = drawn(stream, range(1, 1000))
    expected = np.array(shares) / np.sum(shares)
    assert np.bincount(LABELS[rows], minlength=3) / len(rows) == pytest.approx(expected, abs=0.015)
    within = np.bincount(rows, minlength=70)[60:]
    assert within.min() > 0.75 * within.mean()


def test_progressive_draws_go_from_as_they_come_to_balanced():
    (stage,) = method_of("progressive").stages(task(with_(steps=10_000)))
    for step, done in ((1, 0.0), (5001, 0.5)):
        stream = stage.streams[0](start(None))
        rows = np.concatenate([stream.next(Moment(step, 9.0, 0.0, pytest.fail)) for _ in range(800)])
        expected = (1 - done) * COUNTS / 70 + done / 3
        assert np.bincount(LABELS[rows], minlength=3) / len(rows) == pytest.approx(expected, abs=0.015)


def test_half_of_a_resampled_batch_is_synthetic_whatever_the_classes():
    synthetic = np.arange(70) % 7 == 0
    config = with_(resampling="half_and_half")
    (stage,) = method_of("resampled:power=0").stages(task(config, is_synthetic=synthetic))
    stream = stage.streams[0](start(None))
    for step in range(1, 20):
        assert synthetic[stream.next(Moment(step, 0.0, 0.0, pytest.fail))].sum() == 8


def test_fill_up_ends_on_real_images():
    synthetic = np.arange(70) % 3 == 0
    first, second = method_of("fill_up:real_share=0.34").stages(task(with_(steps=100), is_synthetic=synthetic))
    assert first.config.steps == 66 and second.config.steps == 34
    assert second.config.learning_rate == pytest.approx(0.1 * first.config.learning_rate)
    stream = second.streams[0](start(None))
    assert not synthetic[drawn(stream, range(1, 30))].any()
    with pytest.raises(ValueError, match="method fill_up ends on real images, and there are none"):
        method_of("fill_up").stages(task(is_synthetic=~NOTHING))


# ----------------------------------------------------------------------------------------------------------
# After training.


def test_tau_is_what_validation_likes_best():
    held_out = colours((10, 10, 10), seed=1)
    found = train("tau_norm", validation=held_out)[-1]
    plain = train("erm", validation=held_out)[-1].classifier
    layer, scores = last_layer(plain.module), []
    features = predict_images(plain, held_out[0])[1]
    for tau in np.linspace(0, 2, 21):
        weight = torch.stack([w / w.norm() ** tau for w in layer.weight.detach()])
        hits = class_hits((features @ weight.T).argmax(1).numpy(), held_out[1], 3)
        scores.append((mean_class_accuracy(hits), weight))
    best = max(score for score, _ in scores)
    (weight, *_) = [weight for score, weight in scores if score == best]
    torch.testing.assert_close(last_layer(found.classifier.module).weight, weight)
    assert found.selected == pytest.approx(best) and not last_layer(found.classifier.module).bias.any()


def test_a_given_tau_needs_no_validation():
    ours, plain = train("tau_norm:tau=1")[-1].classifier, train("erm")[-1].classifier
    torch.testing.assert_close(last_layer(ours.module).weight.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(
        last_layer(ours.module).weight, F.normalize(last_layer(plain.module).weight), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="method tau_norm chooses tau on validation images, and there are none"):
        train("tau_norm")


def test_ncm_compares_with_the_mean_features_of_the_classes():
    ours, plain = train("ncm:scale=7")[-1].classifier, train("erm")[-1].classifier
    features = predict_images(plain, IMAGES)[1]
    means = torch.stack([features[np.flatnonzero(c == LABELS)].mean(0) for c in range(3)])
    expected = 7 * F.cosine_similarity(features[:, None], means[None], dim=2)
    torch.testing.assert_close(predict_images(ours, IMAGES)[0], expected, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------
# Heads.


@pytest.mark.parametrize("head", ["cosine", "branches", "branches:2", "prototypes:4"])
@pytest.mark.parametrize("backbone", ["resnet-small", "test_resnet"])
def test_a_classifier_with_another_head_is_saved_and_loaded(head, backbone, tmp_path):
    classifier = with_head(head, 3)(untrained_classifier(with_(backbone=backbone, image_size=32), NAMES)).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier.save(tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.head == head and loaded.sha256() == classifier.sha256()
    torch.testing.assert_close(loaded(images)[0], classifier(images)[0])


def test_the_hash_of_a_linear_classifier_is_what_it_was_before_there_were_heads():
    assert "head" not in untrained_classifier(TINY, NAMES).config()


def test_an_unknown_head_in_a_file_is_refused(tmp_path):
    classifier = untrained_classifier(TINY, NAMES)
    classifier.head = "cosines"
    classifier.save(tmp_path)
    with pytest.raises(ValueError, match=r"config.json is damaged: head should be 'linear' or one of cosine, branches"):
        load_classifier(tmp_path)
    for broken in ("prototypes:0", "prototypes:x", "prototypes:-1", "prototypes:99999", 3, None, ""):
        with pytest.raises(ValueError, match="head should be 'linear' or one of"):
            checked_head(broken)


def test_the_ensembles_logits_are_the_log_of_its_members_mean_probabilities():
    head = Prototypes(6, 3, 4)
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    p = torch.zeros(5, 3)
    for member, scale in zip(head.weight, head.scale, strict=True):
        distance = torch.stack([(F.normalize(features) - F.normalize(c, dim=0)).norm(dim=1) for c in member], 1)
        p += torch.softmax(-scale * distance, 1) / 4
    torch.testing.assert_close(head(features).softmax(1), p, rtol=1e-4, atol=1e-5)


def test_a_head_needs_a_last_linear_layer():
    classifier = untrained_classifier(with_(backbone="levit_128s", image_size=224), NAMES)
    with pytest.raises(ValueError, match="a head 'cosine' trains a last linear layer, and this backbone ends in"):
        put_head(classifier.module, "cosine")


# ----------------------------------------------------------------------------------------------------------

SHORT = {
    **dict.fromkeys(("crt", "crt_group", "mislas"), ":head_steps=3"),
    "lws": ":scale_steps=3",
    "dfr": ":fits=2",
    "dpe": ":members=2,epochs=1",
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_real_and_synthetic_images_and_is_saved(method, tmp_path):
    held_out, synthetic = colours((10, 10, 10), seed=1), np.arange(70) % 3 == 0
    groups = Groups(LABELS * 2 + np.arange(70) % 2, held_out[1] * 2 + np.arange(30) % 2, 2)
    config = with_(method=method + SHORT.get(method, ""), steps=4, resampling="half_and_half")
    records = list(train_classifier(config, IMAGES, LABELS, synthetic, NAMES, validation=held_out, groups=groups))
    assert all(math.isfinite(each.loss) for each in records)
    classifier = records[-1].classifier
    assert not classifier.training and all(each.requires_grad for each in classifier.parameters())
    classifier.save(tmp_path)
    assert load_classifier(tmp_path).sha256() == classifier.sha256()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("focal:gamma=-1", "focal:gamma should not be negative or infinite, got -1"),
        ("reweight:by=image", "reweight:by should be class or group, got 'image'"),
        ("reweight:power=-1", "reweight:power should not be negative"),
        ("cb_loss:beta=1", "cb_loss:beta should be at least 0 and below 1, got 1"),
        ("logit_adjustment:tau=-1", "logit_adjustment:tau should not be negative"),
        ("ldam_drw:scale=0", "ldam_drw:scale should be above 0"),
        ("ldam_drw:beta=1", "ldam_drw:beta should be at least 0 and below 1 and ldam_drw:reweight_from in 0..1, got 1"),
        ("mixup:alpha=0", "mixup:alpha should be above 0"),
        ("mixup:loss=focal", "unknown mixup:loss 'focal': expected one of erm, balanced_softmax"),
        ("remix:tau=2", r"remix:tau should be in 0\.\.1, got 2"),
        ("resampled:power=2", r"resampled:power should be in 0\.\.1, got 2"),
        ("glmc:contrast=-1", "glmc:contrast should not be negative"),
        ("paco:momentum=1", "paco:momentum should be at least 0 and below 1, got 1"),
        ("paco:queue=0", "paco:queue should be above 0, got 0"),
        ("reslt:few=0.9", r"reslt:beta should be in 0\.\.1 and 0 < reslt:few <= reslt:medium <= 1"),
        ("mislas:smooth_tail=0.5", "mislas:smooth_tail and mislas:smooth_head should be 0 <= tail <= head < 1"),
        ("tau_norm:tau=-1", r"tau_norm:tau should be in 0\.\.10, got -1"),
        ("ncm:scale=0", "ncm:scale should be above 0"),
        ("fill_up:real_share=1", "fill_up:real_share should be between 0 and 1, got 1"),
    ],
)
def test_what_a_method_can_not_be_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(with_(method=method))
