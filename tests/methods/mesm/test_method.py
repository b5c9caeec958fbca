"""FE2E and MESM: what they see, what they make of it, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from data_modules.schema import Batch, ModalitySpec, PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.mesm import MESM, rarity
from mmbench.methods.mesm.vgg import Faces, Pictures, Pieces
from mmbench.nn.steps import Layout
from mmbench.testing.builders import changed, doubled, make_batch, make_spec, padded, rows, with_garbage

RAW = {"audio": "waveform", "vision": "frames"}
SMALL = {
    "dim": 8,
    "layers": 1,
    "heads": 2,
    "feed_forward": 16,
    "dropout": 0.0,
    "width": 4,
    "hidden": 16,
    "image_size": 16,
    "bands": 16,
    "piece": 16,
    "frame_interval": 0.0,
}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def raw_spec(kind="multilabel", modalities=("text", "audio", "vision")):
    return make_spec(kind, modalities, kinds={name: RAW[name] for name in modalities if name in RAW})


def build(spec=None, **settings):
    torch.manual_seed(0)
    return MESM(spec or raw_spec(), config=MESM.Config(**{**SMALL, **settings}))


def shortened(batch, **lengths):
    """Return the batch with other lengths of some modalities, zeros beyond them."""
    inputs = dict(batch.inputs)
    for name, length in lengths.items():
        cut = PaddedSequence(inputs[name].values.clone(), torch.tensor(length))
        cut.values[~cut.mask] = 0
        inputs[name] = cut
    return replace(batch, inputs=inputs)


# Samples and padding


@pytest.fixture(scope="module", params=[{}, {"attn_gate": "none"}], ids=["gate", "no gate"])
def sparse(request):
    """A trained-looking sparse model: its running statistics are those of a batch.

    It is of double precision, in which no two sites are equally good by rounding.
    """
    model = build(sparse=True, nucleus=0.6, **request.param).double().train()
    for _ in range(3):
        model(doubled(make_batch(model.spec, 8, seed=1)))
    return model.eval()


@torch.no_grad()
def test_a_sparse_sample_stands_alone(sparse):
    batch = doubled(make_batch(sparse.spec))
    before = sparse(batch).prediction
    for other in (padded(batch, 3), with_garbage(batch)):
        torch.testing.assert_close(sparse(other).prediction, before, **CLOSE)
    for row in range(4):
        alone = rows(batch, torch.tensor([row]))
        torch.testing.assert_close(sparse(alone).prediction, before[[row]], **CLOSE)


@torch.no_grad()
def test_every_modality_counts_and_text_decides_what_is_seen(sparse):
    batch = doubled(make_batch(sparse.spec))
    before = sparse(batch)
    for name in sparse.spec.modalities:
        after = sparse(changed(batch, name, batch.inputs[name].values.roll(1, 0)))
        assert (after.prediction - before.prediction).abs().max() > 1e-6
        moved = {
            m for m in ("audio", "vision") if not torch.equal(after.named[f"state_{m}"], before.named[f"state_{m}"])
        }
        assert moved == ({"audio", "vision"} if name == "text" else {name})


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"sparse": True}], ids=["fe2e", "mesm"])
def test_a_sample_without_frames_or_sound_keeps_the_rest(settings):
    model = build(**settings).double().eval()
    batch = shortened(doubled(make_batch(model.spec)), vision=[8, 0, 3, 2], audio=[12800, 6400, 0, 9000])
    output = model(batch)
    assert output.prediction.isfinite().all()
    for row in range(4):
        alone = model(rows(batch, torch.tensor([row])))
        torch.testing.assert_close(alone.prediction, output.prediction[[row]], **CLOSE)
    if settings:
        assert output.named["flops_vision"][1] == 1.0
        assert output.named["flops_audio"][2] == 1.0
        assert output.named["flops_vision"][[0, 2, 3]].max() < 1.0


@pytest.mark.parametrize("settings", [{}, {"sparse": True}], ids=["fe2e", "mesm"])
def test_a_batch_without_any_frame_can_be_learnt_from(settings):
    model = build(**settings).train()
    batch = shortened(make_batch(model.spec), vision=[0, 0, 0, 0])
    blank = replace(
        batch,
        inputs={**batch.inputs, "vision": PaddedSequence(batch.inputs["vision"].values[:, :0], torch.zeros(4).long())},
    )
    encoder = model.network.encoders["vision"]
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    for case in (batch, blank):
        model.zero_grad(set_to_none=True)
        model.objective(model(case), case)["task"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    model(make_batch(model.spec))  # and the next batch is learnt from
    assert not any(torch.equal(v, before[name]) for name, v in encoder.named_buffers() if "running" in name)


@torch.no_grad()
def test_the_order_of_frames_does_not_matter():
    model = build().eval()
    batch = make_batch(model.spec)
    length = int(batch.inputs["vision"].lengths[1])
    values = batch.inputs["vision"].values.clone()
    values[1, :length] = values[1, :length].flip(0)
    torch.testing.assert_close(model(changed(batch, "vision", values)).prediction, model(batch).prediction, **CLOSE)


@pytest.mark.parametrize("packed", [True, False])
def test_a_state_is_that_of_a_transformer_behind_the_learned_vector(monkeypatch, packed):
    """By torch's own layers on padded steps, with the vector in front of them as in the official code."""
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    encoder = build(make_spec(), layers=3).double().network.states["audio"]
    values, lengths = torch.randn(4, 6, 8, dtype=torch.float64), torch.tensor([6, 2, 0, 3])
    start = encoder.start.expand(4, 1, 8)
    hidden = torch.arange(7) > lengths[:, None]
    expected = encoder.layers(torch.cat([start, values], 1), src_key_padding_mask=hidden)[:, 0]
    torch.testing.assert_close(encoder(PaddedSequence(values, lengths)), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("packed", [True, False])
def test_features_are_normalised_over_real_steps(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    encoder = build(make_spec()).double().network.encoders["audio"].train()
    batch = doubled(make_batch(make_spec()))
    item = with_garbage(batch).inputs["audio"]
    found, _ = encoder(item, None)
    real = item.values[item.mask]
    normal = (real - real.mean(0)) / (real.var(0, correction=0) + encoder.norm.epsilon).sqrt()
    torch.testing.assert_close(found.values[item.mask], encoder.project(normal), atol=1e-9, rtol=1e-9)
    assert torch.equal(found.lengths, item.lengths)


# Fusion


@torch.no_grad()
def test_the_prediction_is_the_weighted_sum_of_the_logits():
    model = build().eval()
    batch = make_batch(model.spec)
    model.network.fusion.weight.copy_(torch.tensor([[2.0, -1.0, 0.5]]))
    output = model(batch)
    parts = [output.named[f"logits_{name}"] for name in ("text", "audio", "vision")]
    torch.testing.assert_close(output.prediction, 2 * parts[0] - parts[1] + 0.5 * parts[2], **CLOSE)
    model.network.fusion.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(model(batch).prediction, parts[0], **CLOSE)


def test_one_modality_needs_no_fusion():
    model = build(raw_spec(modalities=("vision",))).eval()
    output = model(make_batch(model.spec))
    assert model.network.fusion is None
    assert torch.equal(output.prediction, output.named["logits_vision"])


# Text


@torch.no_grad()
def test_text_beside_media_is_its_first_step_or_its_mean():
    batch = make_batch(raw_spec())
    first, mean = build().eval(), build(text_pooling="mean").eval()
    later = batch.inputs["text"].values.clone()
    later[:, 1:] *= 2
    other = changed(batch, "text", later)
    assert torch.equal(first(other).prediction, first(batch).prediction)
    assert (mean(other).prediction - mean(batch).prediction).abs().max() > 1e-4
    text = batch.inputs["text"]
    average = torch.stack([text.values[row, : text.lengths[row]].mean(0) for row in range(4)])
    torch.testing.assert_close(mean(batch).named["logits_text"], mean.network.heads["text"](average), **CLOSE)


@torch.no_grad()
def test_without_media_text_is_a_sequence_like_the_others():
    model = build(make_spec("multilabel")).eval()
    assert set(model.network.encoders) == {"text", "audio", "vision"}
    batch = make_batch(model.spec)
    values = batch.inputs["text"].values.clone()
    values[:, -1] += 1  # the last step of the longest text
    after = model(changed(batch, "text", values)).prediction - model(batch).prediction
    assert after[0].abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_batch_without_any_text_keeps_the_rest(pooling):
    model = build(sparse=True, text_pooling=pooling).eval()
    batch = make_batch(model.spec)
    silent = torch.zeros(4, dtype=torch.long)
    for values in (batch.inputs["text"].values[:, :0], torch.full((4, 2, 7), torch.nan)):
        output = model(replace(batch, inputs={**batch.inputs, "text": PaddedSequence(values, silent)}))
        assert output.prediction.isfinite().all()
        assert torch.equal(output.named["logits_text"], model.network.heads["text"].bias.expand(4, -1))


# Frames and sound


def test_frames_are_taken_by_the_half_second():
    spec = raw_spec(modalities=("vision",))  # 8 frames per second
    batch = make_batch(spec)
    for interval, stride in ((0.0, 1), (0.1, 1), (0.25, 2), (0.5, 4)):
        source = build(spec, frame_interval=interval).network.encoders["vision"].source
        pictures = source(batch.inputs["vision"])
        expected = [-(-length // stride) for length in batch.inputs["vision"].lengths.tolist()]
        assert pictures.lengths.tolist() == expected
        longest = batch.inputs["vision"].values[:1, ::stride]
        seen = Faces(16, 1, "resize")(PaddedSequence(longest, torch.tensor([longest.shape[1]])))
        torch.testing.assert_close(pictures.values[: expected[0]], seen.values)
    for rate, stride in ((0.0, 1), (29.97, 15), (30.0, 15)):  # 0: differs between clips
        other = replace(spec, modalities={"vision": replace(spec.modalities["vision"], rate=rate)})
        assert build(other, frame_interval=0.5).network.encoders["vision"].source.stride == stride


def test_faces_are_normalised_and_larger_frames_scaled():
    exact = torch.randint(0, 256, (1, 2, 3, 16, 16), dtype=torch.uint8)
    found = Faces(16, 1, "resize")(PaddedSequence(exact, torch.tensor([2]))).values
    expected = (exact[0].float() - torch.tensor([159, 111, 102]).view(3, 1, 1)) / torch.tensor([37, 33, 32]).view(
        3, 1, 1
    )
    torch.testing.assert_close(found, expected)
    wide = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    wide[..., 16:48] = 200  # the square in the middle
    wide[..., 16:, 16:48] = 100
    framed = Faces(16, 1, "resize").framed(wide)
    assert framed.shape == (1, 3, 16, 16)
    assert (framed[..., :7, :] - 200).abs().max() < 1e-3
    assert (framed[..., 9:, :] - 100).abs().max() < 1e-3
    assert framed[..., 7:9, :].mean() == pytest.approx(150.0)


def test_pieces_end_with_zeros_of_their_own_clip():
    source = Pieces(16000, 16, 16)  # hops of 200 samples, pieces of 16 frames
    lengths = torch.tensor([3199, 3200, 400, 0])
    pieces = source(PaddedSequence(torch.randn(4, 4000), lengths))
    frames = [1 + length // 200 if length else 0 for length in lengths.tolist()]
    assert pieces.lengths.tolist() == [-(-count // 16) for count in frames] == [1, 2, 1, 0]
    assert pieces.rows.tolist() == [0, 1, 1, 2]
    assert (pieces.values[2, ..., 1:] == 0).all()  # the 17th frame, alone in its piece
    assert (pieces.values[2, ..., 0] > 0).any()
    assert (pieces.values[3, ..., 3:] == 0).all()


def test_vectors_go_back_to_their_samples():
    lengths = torch.tensor([2, 0, 3])
    values = torch.arange(9).view(3, 3, 1, 1, 1).float()
    pictures = Pictures.of(PaddedSequence(values, lengths))
    assert pictures.values.flatten().tolist() == [0, 1, 6, 7, 8]
    back = pictures.sequence(pictures.values.flatten(1) + 10)
    assert back.values[..., 0].tolist() == [[10, 11, 0], [0, 0, 0], [16, 17, 18]]


# Settings


def test_there_are_two_rows_where_text_can_look_at_media():
    for spec in (raw_spec(), raw_spec(modalities=("text", "vision"))):
        assert MESM.variants(spec) == {"fe2e": {"sparse": False}, "mesm": {"sparse": True}}
    for spec in (raw_spec(modalities=("audio", "vision")), make_spec(), make_spec(modalities=("text",))):
        assert MESM.variants(spec) == {"": {}}


@pytest.mark.parametrize("spec", [make_spec(), raw_spec(modalities=("audio", "vision"))], ids=["no media", "no text"])
def test_sparse_needs_text_and_media(spec):
    with pytest.raises(ConfigError, match=r"'sparse' is on.*Set it to false"):
        build(spec, sparse=True)


@pytest.mark.parametrize(("rate", "said"), [(0.0, "has 0 samples"), (40.0, "has 40 samples")])
def test_sound_needs_one_rate(rate, said):
    spec = raw_spec(modalities=("audio",))
    spec = replace(spec, modalities={"audio": replace(spec.modalities["audio"], rate=rate)})
    with pytest.raises(ConfigError, match=rf"{said} per second.*or more"):
        build(spec)


@pytest.mark.parametrize(
    ("size", "fits"), [((48, 48), True), ((100, 120), True), ((60, 90), False), ((200, 99), False), ((40, 40), False)]
)
def test_the_legacy_crop_needs_room(size, fits):
    spec = raw_spec(modalities=("vision",))
    spec = replace(spec, modalities={"vision": ModalitySpec("vision", 3, 8, "frames", rate=8.0, size=size)})
    settings = {"image_size": 48, "framing": "legacy_crop"}
    if fits:
        batch = Batch(
            {"vision": PaddedSequence(torch.zeros(1, 1, 3, *size, dtype=torch.uint8), torch.ones(1).long())},
            torch.zeros(1, 3),
            torch.arange(1),
        )
        assert build(spec, **settings).eval()(batch).prediction.isfinite().all()
    else:
        with pytest.raises(ConfigError, match=r"'framing' is 'legacy_crop'.*set it to 'resize'"):
            build(spec, **settings)


def test_heads_divide_the_width():
    with pytest.raises(ConfigError, match=r"'heads' is 3; it must divide dim, 8"):
        build(heads=3)


@torch.no_grad()
def test_the_legacy_order_mixes_samples_and_says_so():
    batch = make_batch(raw_spec())
    with pytest.warns(UserWarning, match="depends on the other samples"):
        model = build(sparse=True, legacy_site_order=True).eval()
    whole = model(batch).prediction
    alone = model(rows(batch, torch.tensor([1]))).prediction
    assert (whole[[1]] - alone).abs().max() > 1e-5


def test_weights_of_rare_labels_are_negatives_per_positive():
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    assert rarity(labels).tolist() == [1.5, 1.0, 1.0]
