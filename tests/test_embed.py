"""What a user is promised of the encoder: sentence-transformers' own vectors, and long texts heard to their end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flywheel.engines.embed import Encoder, packaged
from flywheel.errors import ModelError


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def test_its_vectors_are_those_of_sentence_transformers(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["A cat sat on the mat.", "", "Quantum chromodynamics describes quarks and gluons. " * 5, "Zürich, 東京"]
    reference = SentenceTransformer(packaged(), device="cpu").encode(texts, normalize_embeddings=True)
    vectors = encoder.encode(texts)
    assert vectors.shape == (4, encoder.dimensions) == (4, 384)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - reference).max() < 1e-4


def test_the_end_of_a_long_text_counts_as_much_as_its_beginning(encoder: Encoder) -> None:
    cats, ships = "Cats sleep in the warm sun all day. " * 100, "The harbour is full of old sailing ships. " * 100
    both, turned, cat, ship = encoder.encode([cats + ships, ships + cats, cats, ships])
    assert both @ turned > 0.99, "a cut-off end would make these the two halves"
    assert cat @ ship < 0.3
    assert both @ cat > 0.6
    assert both @ ship > 0.6


def test_company_changes_nothing(encoder: Encoder) -> None:
    texts = ["short", "a somewhat longer text about nothing in particular", "words " * 700]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert encoder.encode([]).shape == (0, 384)


def test_any_hugging_face_encoder_will_do(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    small = BertConfig(vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=32, max_position_embeddings=64)  # fmt: skip
    BertModel(small).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(packaged()).save_pretrained(tmp_path)
    vectors = Encoder(str(tmp_path)).encode(["one text", "another text " * 100])
    assert vectors.shape == (2, 32)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_an_encoder_that_pools_in_an_unknown_way_is_named(tmp_path: Path) -> None:
    for file in Path(packaged()).rglob("*"):
        if file.is_file() and file.name != "modules.json":
            (tmp_path / file.relative_to(packaged())).parent.mkdir(exist_ok=True)
            (tmp_path / file.relative_to(packaged())).symlink_to(file)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(ModelError, match="module Dense"):
        Encoder(str(tmp_path))
    with pytest.raises(ModelError, match="there is no encoder"):
        Encoder(str(tmp_path / "nowhere"))
