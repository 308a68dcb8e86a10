"""The linear probes of BEiT and MAE, against torch's layers and optimizers and timm's LARS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_evals import settings, under_test  # noqa: F401
from test_training import StopAt
from timm.optim.lars import Lars
from torch import nn

from mimbench.data.loading import Keyed, training_stream
from mimbench.data.sampling import derive
from mimbench.data.views import normalize
from mimbench.errors import Interrupted
from mimbench.evals import linear_probe_beit, linear_probe_mae
from mimbench.evals.frozen import _splits
from mimbench.evals.sweep import schedule_at
from mimbench.pretrain.lars import LARS
from mimbench.pretrain.optim import learning_rate
from mimbench.runtime import Runtime
from mimbench.store.weights import load_weights


def test_lars_is_timms_on_matrices_and_sgd_with_momentum_on_vectors():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(7)), nn.Parameter(torch.zeros(3, 3))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = LARS(ours, lr=0.3)
    matrices = Lars([theirs[0]], lr=0.3, momentum=0.9, dampening=0, weight_decay=0.0, always_adapt=True)
    vectors = torch.optim.SGD(theirs[1:], lr=0.3, momentum=0.9)  # a matrix of zeros has no norm to follow
    ours_zero = [theirs[2]]
    for step in range(6):
        gradients = [torch.randn(p.shape) for p in ours]
        gradients[2] = torch.zeros(3, 3)
        for p, q, gradient in zip(ours, theirs, gradients, strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        for optimizer in (one, matrices, vectors):
            for group in optimizer.param_groups:
                group["lr"] = 0.3 * (1 - step / 10)
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, atol=1e-6, rtol=1e-6)
    assert not ours_zero[0].any()


def test_lars_decays_matrices_only_and_scales_the_whole_update():
    torch.manual_seed(0)
    matrix, vector = (nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((4, 4), (4,)))
    before, kept = matrix.detach().clone(), vector.detach().clone()
    optimizer = LARS([matrix, vector], lr=1.0, weight_decay=0.1)
    matrix.grad, vector.grad = torch.randn_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert torch.equal(vector, kept)
    assert float((matrix.detach() - before).norm()) == pytest.approx(0.001 * float(before.norm()), rel=1e-5)
    update = matrix.grad + 0.1 * before
    assert torch.allclose((before - matrix) / (before - matrix).norm(), update / update.norm(), atol=1e-4)


def alone(encoder, under, chosen, seed, layer):
    """One classifier of BEiT's probe by torch alone, on the same views."""
    train = next(iter(_splits(under, chosen)))
    schedule = schedule_at(chosen, chosen["learning_rates"][0], len(train))
    head = linear_probe_beit.linear_head(64, 12, under.seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=schedule.lr, weight_decay=1e-4)
    for step, batch in enumerate(training_stream(Keyed(train, seed), len(train), schedule, seed, Runtime())(0)):
        with torch.no_grad():
            _, blocks = encoder.body.forward_intermediates(
                normalize(batch["raw"]), return_prefix_tokens=True, output_fmt="NLC"
            )
            patches, cls = blocks[layer]
            features = torch.cat([patches.mean(1), cls[:, 0]], dim=1)
        optimizer.param_groups[0]["lr"] = learning_rate(schedule, step)
        optimizer.zero_grad()
        F.cross_entropy(head(features), batch["label"]).backward()
        optimizer.step()
    return head


@pytest.mark.parametrize("layer", [0, 1])
def test_beits_classifiers_trained_jointly_equal_each_trained_alone_by_torch(under_test, layer):  # noqa: F811
    chosen = settings("linear_probe_beit", learning_rates=[0.004], epochs=3, batch=16)
    linear_probe_beit.evaluate(under_test, chosen, Runtime())
    joint = load_weights(under_test.work / "heads" / "final.pt")
    expected = alone(under_test.encoder().eval(), under_test, chosen, derive(0, "linear probe beit"), layer)
    assert torch.allclose(joint[f"heads.0.{layer}.weight"], expected.weight, atol=1e-6)
    assert torch.allclose(joint[f"heads.0.{layer}.bias"], expected.bias, atol=1e-6)


def test_training_views_are_random_resized_crops_whatever_the_data_say_and_the_others_are_whole(under_test):  # noqa: F811
    train, val, _ = _splits(under_test, settings("linear_probe_beit"))
    assert (train.config.crop, train.config.flip, train.config.shift) == ((0.08, 1.0), True, 0)
    assert torch.equal(val.plain(range(4)), under_test.images("val").plain(range(4)))


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_maes_probe_sees_the_output_after_the_norm_through_a_batch_norm(under_test, pooling):  # noqa: F811
    encoder = under_test.encoder()
    model = linear_probe_mae.OutputProbe(encoder, settings("linear_probe_mae", pooling=pooling), 12, 0).train()
    raw = torch.rand(16, 3, 32, 32)
    tokens = encoder.body.forward_features(normalize(raw))
    seen = tokens[:, 0] if pooling == "class_token" else tokens[:, 1:].mean(1)
    norm = nn.BatchNorm1d(32, affine=False, eps=1e-6)
    expected = F.linear(norm(seen), model.heads[0][0][1].weight)
    assert torch.allclose(model.logits(raw)[0, 0], expected, atol=1e-5)
    assert float(model.heads[0][0][1].weight.std()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("name", ["linear_probe_beit", "linear_probe_mae"])
def test_a_probe_stopped_and_resumed_computes_the_same_bits(under_test, name):  # noqa: F811
    module, chosen = (
        {"linear_probe_beit": linear_probe_beit, "linear_probe_mae": linear_probe_mae}[name],
        settings(name),
    )
    straight = module.evaluate(under_test, chosen, Runtime())
    again, stop = replace(under_test, work=under_test.work / "again"), StopAt()
    stop.at = 1
    with pytest.raises(Interrupted):
        module.evaluate(again, chosen, Runtime(stop=stop, progress=stop))
    assert module.evaluate(again, chosen, Runtime()) == straight
    one, two = (load_weights(under.work / "heads" / "final.pt") for under in (under_test, again))
    assert all(torch.equal(one[key], two[key]) for key in one)
