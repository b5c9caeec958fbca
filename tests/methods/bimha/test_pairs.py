"""BIMHA's pairs: the token of each beside its formula, and what they are for."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.bimha import BIMHA
from mmbench.methods.bimha.network import PairFusion
from tests.methods.bimha.parts import PAIRS, batch_of, build, watch

# Pairs


@pytest.mark.parametrize("operation", ["outer", "lowrank", "hadamard", "concat"])
def test_token_of_a_pair_is_its_formula(operation):
    token = PairFusion(("text", "audio"), 3, 5, operation, 2, 0.0).double()
    vectors = {name: torch.randn(2, 3).double() for name in ("text", "audio", "vision")}
    found = token(vectors)
    for row in range(2):
        x, y = vectors["text"][row], vectors["audio"][row]
        x1, y1 = (torch.cat([vector, torch.ones(1).double()]) for vector in (x, y))
        if operation == "lowrank":
            parts = token.fusion
            terms = [
                parts.weights[0, i] * (x1 @ parts.factors["text"][i]) * (y1 @ parts.factors["audio"][i])
                for i in range(2)
            ]
            expected = sum(terms) + parts.bias
        else:
            product = torch.stack([a * b for a in x1 for b in y1])
            assert product.shape == (16,)
            assert product[-1] == 1
            inputs = {"outer": product, "hadamard": x * y, "concat": torch.cat([x, y])}[operation]
            expected = token.fusion.weight @ inputs + token.fusion.bias
        torch.testing.assert_close(found[row], expected.clamp(min=0))


def test_a_vector_of_zeros_leaves_the_other_in_the_pair():
    token = PairFusion(("text", "audio"), 3, 64, "outer", 2, 0.0).double()
    audio = torch.randn(1, 3).double()
    with_zeros = [token({"text": torch.zeros(1, 3).double(), "audio": scale * audio}) for scale in (1, 2)]
    assert (with_zeros[0] - with_zeros[1]).abs().max() > 1e-3
    silent = PairFusion(("text", "audio"), 3, 64, "hadamard", 2, 0.0).double()
    with_zeros = [silent({"text": torch.zeros(1, 3).double(), "audio": scale * audio}) for scale in (1, 2)]
    assert torch.equal(*with_zeros)


def test_pairs_have_weights_of_their_own_and_a_vector_each():
    network, batch = build().network, batch_of()
    seen = watch(network)
    network(batch.inputs)
    assert tuple(network.pairs) == PAIRS
    assert len({token.fusion.weight.data_ptr() for token in network.tokens.values()}) == 3
    tokens = torch.stack([seen[name] for name in PAIRS], 1)
    torch.testing.assert_close(seen["read"][1], tokens + network.embedding)
    assert torch.pdist(network.embedding).min() > 1e-3  # pairs differ from the start


# What pairs are for


def test_a_product_of_signs_is_learned_from_its_pair():
    """The class is whether the signs of text and vision agree, which no linear reading of the features can tell."""
    generator = torch.Generator().manual_seed(0)
    names = ("text", "audio", "vision")
    values = {name: torch.randn(600, 1, 2, generator=generator) for name in names}
    agree = (values["text"][:, 0, 0] * values["vision"][:, 0, 0] > 0).long()
    flat = torch.cat([part[:, 0] for part in values.values()], 1).numpy()
    linear = LogisticRegression().fit(flat[:400], agree[:400].numpy())
    assert linear.score(flat[400:], agree[400:].numpy()) < 0.6
    spec = DataSpec(
        "made_up",
        "signs",
        "standard",
        {name: ModalitySpec(name, 2, 1) for name in names},
        TargetSpec("multiclass", ("differ", "agree")),
    )
    torch.manual_seed(0)
    settings = {"encoder_dropout": 0.0, "pair_dropout": 0.0, "head_dropout": 0.0, "lr": 5e-3, "keep_unimodal": False}
    pairs = {"pair_text_audio": False, "pair_audio_vision": False}
    model = BIMHA(spec, config=BIMHA.Config(width=8, pair_width=16, **settings, **pairs)).train()
    (optimizer,) = model.configure_optimizers()

    def batch(rows):
        size = len(agree[rows])
        inputs = {name: PaddedSequence(part[rows], torch.ones(size, dtype=torch.long)) for name, part in values.items()}
        return Batch(inputs, agree[rows], torch.arange(size))

    for step in range(200):
        chosen = batch(slice(100 * (step % 4), 100 * (step % 4) + 100))
        optimizer.zero_grad()
        sum(model.objective(model(chosen), chosen).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(batch(slice(400, 600))).prediction.argmax(1)
    assert (found == agree[400:]).double().mean() > 0.95
