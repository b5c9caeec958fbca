import torch
from torch import nn

from mmbench.methods.mib.graph_fusion import GraphFusion


def lively(names):
    torch.manual_seed(0)
    fusion = GraphFusion(names, 10)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.5)
    return fusion


def test_two_modalities_have_two_levels():
    """The formulas written out: with one pair its softmax weight is 1."""
    fusion = lively(("audio", "vision"))
    a, v = torch.randn(2, 4, 10)
    sa, sv = ((x @ fusion.weight.weight.T + fusion.weight.bias).tanh() for x in (a, v))
    bimodal = fusion.levels[0](torch.cat([a, v], -1)).tanh()
    expected = fusion.out(torch.cat([(sa * a + sv * v) / 2, bimodal], -1))
    torch.testing.assert_close(fusion({"audio": a, "vision": v}), expected)
    assert len(fusion.levels) == 1


def test_three_modalities_have_three_levels():
    """The formulas written out, vertex by vertex."""
    fusion = lively(("text", "audio", "vision"))
    text, a, v = torch.randn(3, 4, 10)

    def dot(x, y):
        return (x.softmax(-1) * y.softmax(-1)).sum(-1, keepdim=True) + 0.5

    def layer(level, x, y):
        return fusion.levels[level](torch.cat([x, y], -1))

    def vertices(strengths, joint):
        total = sum(strength.exp() for strength in strengths)
        return [(strength.exp() / total * vector).tanh() for strength, vector in zip(strengths, joint, strict=True)]

    s = [(x @ fusion.weight.weight.T + fusion.weight.bias).tanh() for x in (text, a, v)]
    av, vt, at = layer(0, a, v), layer(0, v, text), layer(0, a, text)
    k_av, k_vt, k_at = (s[1] + s[2]) / dot(a, v), (s[2] + s[0]) / dot(v, text), (s[1] + s[0]) / dot(a, text)
    h_av, h_vt, h_at = bimodal = vertices([k_av, k_vt, k_at], [av, vt, at])
    trimodal = vertices(
        [
            (k_av + k_vt) / dot(av, vt),
            (k_av + k_at) / dot(av, at),
            (k_vt + k_at) / dot(vt, at),
            (k_av + s[0]) / dot(av, text),
            (k_vt + s[1]) / dot(vt, a),
            (k_at + s[2]) / dot(at, v),
        ],
        [
            *(layer(1, h_av, h_vt), layer(1, h_av, h_at), layer(1, h_vt, h_at)),
            *(layer(1, h_av, text), layer(1, h_vt, a), layer(1, h_at, v)),
        ],
    )
    unimodal = (s[0] * text + s[1] * a + s[2] * v) / 3
    expected = fusion.out(torch.cat([unimodal, sum(bimodal), sum(trimodal)], -1))
    torch.testing.assert_close(fusion({"text": text, "audio": a, "vision": v}), expected)
