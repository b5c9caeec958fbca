"""What several tests of data use: a tiny encoder of texts."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a tiny BERT with its words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("text")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "bad"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tiny-bert")
    torch.manual_seed(0)
    sizes = {"vocab_size": 8, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=24, max_position_embeddings=16)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "tiny-bert")
    return str(folder / "tiny-bert")
