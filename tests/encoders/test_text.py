import torch

from video_dit.encoders.text import HashTextEncoder


def encoder() -> HashTextEncoder:
    return HashTextEncoder(max_length=6, width=64)


def test_shapes_mask_and_padding() -> None:
    text = encoder().encode(["a red circle", "", "one two three four five six seven eight"])
    assert text.embeds.shape == (3, 6, 64)
    assert text.mask.sum(1).tolist() == [3, 1, 6]
    assert not text.embeds[~text.mask].any()
    assert text.pooled.shape == (3, 64)
    assert encoder().num_tokens("one two three four five six seven eight") == (8,)


def test_a_prompt_has_the_same_embedding_for_ever() -> None:
    """Shards outlive processes and versions; these figures were printed by the first version of the encoder."""
    text = HashTextEncoder(max_length=2, width=4).encode(["Hello, world"])
    torch.testing.assert_close(text.pooled[0], torch.tensor(GOLDEN_POOLED), atol=1e-5, rtol=0)


GOLDEN_POOLED = [-0.045149, -0.247587, 1.125985, 0.325445]


def test_prompts_are_told_apart_by_words_and_by_their_order() -> None:
    text = encoder().encode(["red circle, blue square", "blue circle, red square", "red circle, blue circle"])
    first, reordered, other = text.embeds
    assert not torch.allclose(first, reordered)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(text.pooled[0], text.pooled[1])  # the pooled vector does not see the order
    assert not torch.allclose(text.pooled[0], text.pooled[2])


def test_neighbours_in_a_batch_change_nothing() -> None:
    together = encoder().encode(["a", "b c", ""])
    for row, prompt in enumerate(["a", "b c", ""]):
        for ours, alone in zip(together, encoder().encode([prompt]), strict=True):
            assert torch.equal(ours[row], alone[0])


def test_embeddings_have_unit_scale_and_alike_words_are_near() -> None:
    words = encoder().encode(["circle", "circles", "square", "triangle", "moves", "left"]).pooled
    assert 0.7 < words.std() < 1.3
    similarity = torch.nn.functional.cosine_similarity(words[:1], words)
    assert similarity[1] > 0.4
    assert similarity[2:].abs().max() < 0.4
