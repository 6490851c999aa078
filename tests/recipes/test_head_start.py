import numpy as np

from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.recipes.head_start import head_start, sharpen_likeness, sinusoids


def test_a_shift_is_one_linear_map():
    waves = sinusoids(40, 14)
    for shift in (1, 3):
        step, *_ = np.linalg.lstsq(waves[:-shift], waves[shift:], rcond=None)
        np.testing.assert_allclose(waves[:-shift] @ step, waves[shift:], atol=1e-9)
    assert sinusoids(5, 7).shape == (5, 7)


def test_only_positions_and_keys_are_set():
    config = BertConfig(
        vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=40, initializer_range=0.05,
    )  # fmt: skip
    plain, started = BertForPreTraining(config), BertForPreTraining(config)
    head_start(started)
    before, after = plain.state_dict(), started.state_dict()
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    keys = {f"bert.encoder.layer.{i}.attention.self.key.weight" for i in range(2)}
    assert changed == {"bert.embeddings.position_embeddings.weight", *keys}
    for key in keys:
        np.testing.assert_array_equal(after[key], after[key.replace("key", "query")])
        assert after[key] is not after[key.replace("key", "query")]
    spread = after["bert.embeddings.position_embeddings.weight"]
    np.testing.assert_allclose(np.sqrt(np.mean(spread**2)), 0.05, rtol=0.01)


def test_sharpened_scores_are_four_times_as_large_in_the_first_layer_alone():
    model = BertForPreTraining(BertConfig(20, 12, 2, 3, 20))
    x = np.random.default_rng(0).standard_normal((1, 5, 12)).astype("float32")

    def scores(layer):
        attention = model.bert.layers[layer].attention
        return attention.query.forward(x)[0] @ attention.key.forward(x)[0].swapaxes(1, 2)

    before = [scores(0), scores(1)]
    sharpen_likeness(model)
    np.testing.assert_allclose(scores(0), 4 * before[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(scores(1), before[1])
