import pytest
import torch
import torch.nn.functional as F

from mimbench import registry
from mimbench.config.parts import resolve
from mimbench.errors import UserError
from mimbench.parts import Encoded, Masks, PatchGrid

GRID = PatchGrid(2, 3, 4)
FEATURE_LOSSES = [
    ({"type": "mse"}, lambda p, t: (p - t) ** 2),
    ({"type": "l1"}, lambda p, t: (p - t).abs()),
    ({"type": "smooth_l1", "beta": 2.0}, lambda p, t: F.smooth_l1_loss(p, t, beta=2.0, reduction="none")),
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("spec", "by_hand"), FEATURE_LOSSES)
def test_a_regression_loss_is_averaged_over_the_features_of_each_position(spec, by_hand):
    prediction, target = 3 * torch.randn(5, 7), torch.randn(5, 7)
    loss = registry.build("loss", spec)(prediction, target)
    torch.testing.assert_close(loss, by_hand(prediction, target).sum(1) / 7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_negative_log_probability(smoothing):
    prediction, codes = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    log_probability = prediction.log_softmax(1)
    by_hand = -(1 - smoothing) * log_probability[range(5), codes] - smoothing * log_probability.mean(1)
    loss = registry.build("loss", {"type": "cross_entropy", "label_smoothing": smoothing})(prediction, codes)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize(
    ("kind", "spec", "sentence"),
    [
        ("loss", {"type": "cross_entropy", "label_smoothing": 1}, "less than 1, not 1.0"),
        ("loss", {"type": "smooth_l1", "beta": 0}, "beta must be greater than 0"),
        ("masker", {"type": "random", "predict": "mask"}, "Did you mean 'masked'?"),
        ("decoder", {"type": "transformer", "depth": 0}, "at least 1, not 512, 0 and 16"),
        (
            "decoder",
            {"type": "transformer", "dim": 100, "heads": 16},
            r"dim \(100\) must be a multiple of heads \(16\)",
        ),
        ("decoder", {"type": "transformer", "dim": 6, "heads": 2}, "divisible by 4"),
    ],
)
def test_bad_arguments_are_refused_while_planning(kind, spec, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(kind, spec, "row")


def masks(hidden, drop=False):
    hidden = torch.tensor(hidden, dtype=torch.bool)
    kept = (~hidden).nonzero()[:, 1].view(len(hidden), -1) if drop else None
    predicted = hidden.flatten().nonzero().squeeze(1)
    return Masks(hidden, predicted, kept, len(predicted))


def test_the_linear_head_sees_the_predicted_positions_alone():
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(8, 5, GRID)
    patches = torch.randn(2, 6, 8, requires_grad=True)
    some = masks([[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]])
    prediction = decoder(Encoded(patches, torch.zeros(2, 8), None, {}), some)
    expected = torch.stack([patches[0, 0], patches[0, 5], patches[1, 2]])
    torch.testing.assert_close(prediction, expected @ decoder.project.weight.T + decoder.project.bias)
    prediction.sum().backward()
    assert (patches.grad.abs().sum(-1) > 0).tolist() == some.masked.tolist()


def test_the_linear_head_starts_as_beits_does():
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(64, 512, GRID)
    weight = decoder.project.weight.detach()
    assert weight.abs().max() <= 0.02
    assert weight.std() == pytest.approx(0.0108, rel=0.02)  # of a normal cut off at one deviation
    assert not decoder.project.bias.any()


@pytest.fixture
def transformer():
    decoder = registry.build("decoder", {"type": "transformer", "dim": 8, "depth": 1, "heads": 2})
    decoder.build(4, 5, GRID)
    return decoder


def test_visible_patches_return_to_their_places_and_mask_tokens_fill_the_gaps(transformer):
    hidden = masks([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0]], drop=True)
    patches, cls, seen = torch.randn(2, 3, 4), torch.randn(2, 4), []
    transformer.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    transformer(Encoded(patches, cls, hidden.kept, {}), hidden)
    (restored,), positions = seen, transformer.positions
    x = transformer.embed(torch.cat([cls.unsqueeze(1), patches], dim=1))
    assert torch.equal(restored[:, 0], x[:, 0] + positions[0])
    for image in range(2):
        for position, place in enumerate(hidden.kept[image].tolist()):
            assert torch.equal(restored[image, 1 + place], x[image, 1 + position] + positions[1 + place])
        gaps = hidden.masked[image]
        assert torch.equal(restored[image, 1:][gaps], transformer.mask_token[0] + positions[1:][gaps])


def test_dropped_and_full_encoders_give_the_same_where_nothing_is_hidden(transformer):
    patches, cls = torch.randn(2, 6, 4), torch.randn(2, 4)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    everywhere, kept = torch.arange(12), torch.arange(6).expand(2, 6)
    full = transformer(Encoded(patches, cls, None, {}), Masks(nothing, everywhere, None, 12))
    dropped = transformer(Encoded(patches, cls, kept, {}), Masks(nothing, everywhere, kept, 12))
    torch.testing.assert_close(full, dropped)


def test_gradients_reach_the_mask_token_and_the_visible_patches(transformer):
    some = masks([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0]], drop=True)
    patches, cls = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    transformer(Encoded(patches, cls, some.kept, {}), some).square().sum().backward()
    for tensor in (transformer.mask_token, patches, cls):
        assert tensor.grad.abs().sum() > 0


def test_the_transformer_starts_as_maes_does(transformer):
    bound = (6 / (4 + 8)) ** 0.5  # Xavier's, of the embedding
    assert bound * 0.8 < transformer.embed.weight.abs().max() <= bound
    assert not transformer.blocks[0].attn.qkv.bias.any()
    assert "positions" not in transformer.state_dict()
