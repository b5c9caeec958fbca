import torch

from data_modules.schema import PaddedSequence
from mmbench.nn.words import shifted, without_marks


def test_words_stand_between_the_first_and_the_last_step():
    values = torch.arange(1.0, 21.0).view(4, 5, 1)
    found = without_marks(PaddedSequence(values, torch.tensor([5, 3, 2, 1])))
    assert found.values[..., 0].tolist() == [[2, 3, 4, 0, 0], [7, 0, 0, 0, 0], [0] * 5, [0] * 5]
    assert found.lengths.tolist() == [3, 1, 0, 0]


def test_one_step_has_no_words_and_one_step_of_zeros():
    found = without_marks(PaddedSequence(torch.ones(2, 1, 3), torch.tensor([1, 1])))
    assert found.values.shape == (2, 1, 3)
    assert not found.values.any()
    assert not found.mask.any()


def test_marks_are_shifted_like_states():
    marks = torch.tensor([[True, False, True], [False, True, True]])
    assert shifted(marks).tolist() == [[False, True, False], [True, True, False]]
    assert torch.equal(shifted(marks[..., None].float())[..., 0].bool(), shifted(marks))
