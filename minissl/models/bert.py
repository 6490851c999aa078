"""BERT (Devlin et al. 2019): an encoder of post-norm transformer layers, pre-trained by two tasks at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minissl.backend import Array, array_module, beside, require_ids, to_host, to_number
from minissl.errors import InputError
from minissl.kernels import op
from minissl.models.labels import LabelledConfig
from minissl.models.pretrained import LearningModel, ModelOutput, PreTrainedModel, as_array, check_dtype
from minissl.nn import Dropout, Embedding, Grads, Init, LayerNorm, Linear, Module, TransformerLayer, activation
from minissl.pretext.mlm import IGNORE
from minissl.workers import map_row_shares

MOST_LABELS = 1_000_000  # each has a name in the configuration
WORTH_SPLITTING = 10**8  # multiplications: a few milliseconds of one core, beside which starting threads is nothing

tanh = op("tanh")
take_positions = op("take_positions")
masked_cross_entropy = op("masked_cross_entropy")
cross_entropy = op("cross_entropy")


PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": heads,
        "intermediate_size": 4 * d,
        "vocab_size": vocab,
    }
    for name, layers, d, heads, vocab in [
        ("tiny", 2, 128, 2, 8192),
        ("mini", 4, 256, 4, 30522),
        ("small", 4, 512, 8, 30522),
        ("base", 12, 768, 12, 30522),
    ]
}


@dataclass
class BertConfig(LabelledConfig):
    """The sizes and rates of a BERT, under Hugging Face's names; the defaults are BERT-base's."""

    model_type: ClassVar[str] = "bert"
    fixed: ClassVar[dict[str, Any]] = {
        "is_decoder": False,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None  # None: hidden_dropout_prob

    def __post_init__(self) -> None:
        """Raise InputError for values that no BERT can have."""
        super().__post_init__()
        if self.pad_token_id >= self.vocab_size:
            raise InputError(f"config: pad_token_id {self.pad_token_id} is outside the vocabulary of {self.vocab_size}")
        rate = self.classifier_dropout
        if rate is not None and not (isinstance(rate, (int, float)) and 0 <= rate < 1):
            raise InputError(f"config: classifier_dropout is {rate!r}, expected a share, 0 or more and below 1")


class BertInputs(NamedTuple):
    """Checked inputs: ids, segments and positions as integers, and the attention mask (None where all may be seen)."""

    input_ids: Array  # (B, T)
    token_type_ids: Array  # (B, T)
    position_ids: Array  # (B, T), or (1, T) where every row counts alike
    mask: Array | None  # (B, 1, 1, T), True = may be attended to

    def rows(self, share: slice) -> BertInputs:
        """The inputs of some of the rows."""
        positions = self.position_ids if len(self.position_ids) == 1 else self.position_ids[share]
        mask = None if self.mask is None else self.mask[share]
        return BertInputs(self.input_ids[share], self.token_type_ids[share], positions, mask)


class BertTargets(NamedTuple):
    """What is asked: the true ids at the masked positions, and whether the second segment follows the first."""

    positions: Array  # (M,) flat positions in (B, T)
    ids: Array  # (M,)
    next_sentence: Array | None  # (B,): 0 = is next, 1 = is not
    counts: dict[str, int]  # what each loss divides by: of the whole batch, where this is a share of it


class BertEmbeddings(Module):
    """LN(word + position + segment), with dropout."""

    def __init__(self, config: BertConfig, init: Init):
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, init, padding=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size, init)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size, init)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps, init)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.pad = config.pad_token_id

    def forward(self, inputs: BertInputs, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """ids (B, T) -> x (B, T, D)."""
        words, word_cache = self.word_embeddings.forward(inputs.input_ids)
        positions, position_cache = self.position_embeddings.forward(inputs.position_ids)  # (1 or B, T, D)
        segments, segment_cache = self.token_type_embeddings.forward(inputs.token_type_ids)
        x, norm_cache = self.norm.forward(words + positions + segments)
        x, dropout_cache = self.dropout.forward(x, rng)
        return x, (inputs, word_cache, position_cache, segment_cache, norm_cache, dropout_cache)

    def backward(self, dx: Array, cache: Any, grads: Grads) -> None:
        """All three tables get the same gradient, each summed over the places where a row was read."""
        inputs, word_cache, position_cache, segment_cache, norm_cache, dropout_cache = cache
        dsum = self.norm.backward(self.dropout.backward(dx, dropout_cache), norm_cache, grads)
        trained = (inputs.input_ids != self.pad)[..., None]  # looking padding up does not train it, as in Hugging Face
        self.word_embeddings.backward(dsum * trained, word_cache, grads)
        self.token_type_embeddings.backward(dsum, segment_cache, grads)
        dpositions = dsum.sum(axis=0, keepdims=True) if len(inputs.position_ids) == 1 else dsum
        self.position_embeddings.backward(dpositions, position_cache, grads)


class BertPooler(Module):
    """tanh(W h_[CLS] + b): one vector for the whole sequence."""

    def __init__(self, config: BertConfig, init: Init):
        self.dense = Linear(config.hidden_size, config.hidden_size, init)

    def forward(self, hidden: Array) -> tuple[Array, Any]:
        """hidden (B, T, D) -> pooled (B, D)."""
        h, dense_cache = self.dense.forward(hidden[:, 0])
        pooled, tanh_cache = tanh.forward(h)
        return pooled, (dense_cache, tanh_cache)

    def backward(self, dpooled: Array, cache: Any, grads: Grads) -> Array:
        """dpooled (B, D) -> the gradient of hidden[:, 0] (B, D); the other positions get none."""
        dense_cache, tanh_cache = cache
        return self.dense.backward(tanh.backward(dpooled, tanh_cache), dense_cache, grads)


class MaskedLMHead(Module):
    """LN(act(W h + b)), to be compared with every word embedding; `bias` is the decoder's own."""

    def __init__(self, config: BertConfig, init: Init):
        self.dense = Linear(config.hidden_size, config.hidden_size, init)
        self.act = activation(config.hidden_act)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps, init)
        self.bias = init.zeros(config.vocab_size)

    def forward(self, h: Array) -> tuple[Array, Any]:
        """h (M, D) -> (M, D)."""
        h, dense_cache = self.dense.forward(h)
        h, act_cache = self.act.forward(h)
        h, norm_cache = self.norm.forward(h)
        return h, (dense_cache, act_cache, norm_cache)

    def backward(self, dh: Array, cache: Any, grads: Grads) -> Array:
        """(M, D) -> (M, D)."""
        dense_cache, act_cache, norm_cache = cache
        dh = self.norm.backward(dh, norm_cache, grads)
        return self.dense.backward(self.act.backward(dh, act_cache), dense_cache, grads)


class BertModel(PreTrainedModel):
    """The encoder: ids -> a vector for each position, and one for the sequence."""

    config_class = BertConfig
    renames = (
        ("layers.", "encoder.layer."),
        (".attention.query.", ".attention.self.query."),
        (".attention.key.", ".attention.self.key."),
        (".attention.value.", ".attention.self.value."),
        (".attention.out.", ".attention.output.dense."),
        (".attention_norm.", ".attention.output.LayerNorm."),
        (".feed_forward.up.", ".intermediate.dense."),
        (".feed_forward.down.", ".output.dense."),
        (".output_norm.", ".output.LayerNorm."),
        ("embeddings.norm.", "embeddings.LayerNorm."),
        ("predictions.dense.", "predictions.transform.dense."),
        ("predictions.norm.", "predictions.transform.LayerNorm."),
        ("predictions.", "cls.predictions."),
        ("seq_relationship.", "cls.seq_relationship."),
        (".gain", ".weight"),
    )

    def __init__(
        self, config: BertConfig, seed: int = 0, dtype: str = "float32", init: Init | None = None,
        add_pooling_layer: bool = True,
    ):  # fmt: skip
        check_dtype(dtype)
        init = init or Init(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: BertConfig = config
        self.embeddings = BertEmbeddings(config, init)
        self.layers = [
            TransformerLayer(
                config.hidden_size, config.num_attention_heads, config.intermediate_size, config.hidden_act,
                config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.layer_norm_eps, init,
            )
            for _ in range(config.num_hidden_layers)
        ]  # fmt: skip
        if add_pooling_layer:
            self.pooler = BertPooler(config, init)

    def forward(self, inputs: BertInputs, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """ids (B, T) -> hidden states (B, T, D) after the last layer."""
        x, embedding_cache = self.embeddings.forward(inputs, rng)
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x, inputs.mask, rng)
            caches.append(cache)
        return x, (embedding_cache, caches)

    def backward(self, dx: Array, cache: Any, grads: Grads) -> None:
        """Layers in reverse; each one's cache is let go as soon as it has been used."""
        embedding_cache, caches = cache
        for layer in reversed(self.layers):
            dx = layer.backward(dx, caches.pop(), grads)
        self.embeddings.backward(dx, embedding_cache, grads)

    def evaluate(
        self, inputs: BertInputs, hidden_states: bool = False, attentions: bool = False
    ) -> tuple[Array, list[Array], list[Array]]:
        """ids (B, T) -> the last hidden states (B, T, D); of every layer its states and attention weights, if asked.

        A batch that is worth it is split by rows over the cores.
        """
        rows, length = inputs.input_ids.shape
        d, f = self.config.hidden_size, self.config.intermediate_size
        products = len(self.layers) * rows * length * (4 * d * d + 2 * d * f)

        def work(share: slice) -> tuple[Array, list[Array], list[Array]]:
            return self._evaluate_rows(inputs.rows(share), hidden_states, attentions)

        if rows == 1 or products < WORTH_SPLITTING or not isinstance(self.embeddings.norm.gain.data, np.ndarray):
            return work(slice(0, rows))
        parts, states, weights = zip(*map_row_shares(work, rows, length), strict=True)
        return (
            np.concatenate(parts),
            [np.concatenate(of_layer) for of_layer in zip(*states, strict=True)],
            [np.concatenate(of_layer) for of_layer in zip(*weights, strict=True)],
        )

    def _evaluate_rows(
        self, inputs: BertInputs, hidden_states: bool, attentions: bool
    ) -> tuple[Array, list[Array], list[Array]]:
        """`evaluate` on this thread."""
        x, _ = self.embeddings.forward(inputs)
        states, weights = [x], []
        for layer in self.layers:
            x, cache = layer.forward(x, inputs.mask)
            if hidden_states:
                states.append(x)
            if attentions and cache.attention.weights is not None:
                weights.append(cache.attention.weights)
            del cache  # evaluation keeps nothing that only backward needs
        return x, states if hidden_states else [], weights

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None, token_type_ids: Array | None = None,
        position_ids: Array | None = None, output_hidden_states: bool = False, output_attentions: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `last_hidden_state` (B, T, D), `pooler_output` (B, D) where there is a pooler; on request every
        layer's own `hidden_states` and `attentions`.
        """
        inputs = check_inputs(self.config, input_ids, attention_mask, token_type_ids, position_ids)
        inputs = beside(inputs, self.embeddings.norm.gain.data)
        x, states, attentions = self.evaluate(inputs, output_hidden_states, output_attentions)
        out = ModelOutput(last_hidden_state=x)
        if hasattr(self, "pooler"):
            out["pooler_output"] = self.pooler.forward(x)[0]
        if output_hidden_states:
            out["hidden_states"] = tuple(states)
        if output_attentions:
            out["attentions"] = tuple(attentions)
        return out


class BertForPreTraining(LearningModel):
    """BERT with its two pre-training heads: masked language modelling and next sentence prediction."""

    config_class = BertConfig
    renames = BertModel.renames
    aliases: ClassVar[dict[str, str]] = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: BertConfig, seed: int = 0, dtype: str = "float32"):
        init = Init(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: BertConfig = config
        self.bert = BertModel(config, dtype=dtype, init=init)
        self.predictions = MaskedLMHead(config, init)
        self.seq_relationship = Linear(config.hidden_size, 2, init)

    @property
    def decoder(self) -> Array:
        """The decoder's weight (V, D): tied, the very word embeddings."""
        return self.bert.embeddings.word_embeddings.weight.data

    def forward(
        self, inputs: BertInputs, targets: BertTargets, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], Any]:
        """Return the losses that were asked for, `mlm`, `nsp` or both, and the caches. BERT minimises their sum."""
        hidden, bert_cache = self.bert.forward(inputs, rng)
        losses: dict[str, Array] = {}
        mlm_cache = nsp_cache = None
        if targets.counts["mlm"]:
            h, taken = take_positions.forward(hidden, targets.positions)  # (B, T, D) -> (M, D): no other is decoded
            h, head = self.predictions.forward(h)
            bias, counts = self.predictions.bias.data, targets.counts
            losses["mlm"], decoded = masked_cross_entropy.forward(h, self.decoder, bias, targets.ids, counts["mlm"])
            mlm_cache = taken, head, decoded
        if targets.next_sentence is not None:
            pooled, pooler = self.bert.pooler.forward(hidden)
            logits, linear_cache = self.seq_relationship.forward(pooled)  # (B, 2)
            losses["nsp"], classified = cross_entropy.forward(logits, targets.next_sentence, targets.counts["nsp"])
            nsp_cache = pooler, linear_cache, classified
        return losses, (hidden, bert_cache, mlm_cache, nsp_cache)

    def backward(self, cache: Any, grads: Grads) -> None:
        """The gradient of mlm + nsp: both reach the encoder, and the decoder's reaches the word embeddings."""
        hidden, bert_cache, mlm_cache, nsp_cache = cache
        if mlm_cache is None:
            dhidden = array_module(hidden).zeros_like(hidden)
        else:
            taken, head, decoded = mlm_cache
            dh, dweight, dbias = masked_cross_entropy.backward(grads.loss_scale, decoded)
            grads.add(self.bert.embeddings.word_embeddings.weight, dweight)
            grads.add(self.predictions.bias, dbias)
            dhidden = take_positions.backward(self.predictions.backward(dh, head, grads), taken)
        if nsp_cache is not None:
            pooler, linear_cache, classified = nsp_cache
            dlogits = cross_entropy.backward(grads.loss_scale, classified)
            dpooled = self.seq_relationship.backward(dlogits, linear_cache, grads)
            dhidden[:, 0] += self.bert.pooler.backward(dpooled, pooler, grads)
        self.bert.backward(dhidden, bert_cache, grads)

    def untrained(self) -> dict[str, Array]:
        """Name the entries that get no gradient, by design: the padding row's, as in Hugging Face."""
        rows = np.zeros(self.decoder.shape, bool)
        rows[self.config.pad_token_id] = True
        return {"bert.embeddings.word_embeddings.weight": rows}

    def counts(self, batch: dict[str, Array]) -> dict[str, int]:
        """What each loss of a batch divides by. Raises InputError where nothing is masked or asked."""
        return check_targets(batch.get("labels"), batch.get("next_sentence_label"), self.config).counts

    def losses_and_backward(
        self, batch: dict[str, Array], counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """One share of a step: both losses over its part of the batch, divided by the whole batch's `counts`."""
        inputs, targets = self._check(batch, counts)
        losses, cache = self.forward(inputs, targets, rng)
        self.backward(cache, grads)
        return {name: to_number(loss) for name, loss in losses.items()}

    def predict_masked(self, batch: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Evaluate: logits (M, V) at the masked positions alone, their true ids (M,), NSP logits (B, 2), on the CPU."""
        inputs, targets = self._check(batch)
        hidden, _, _ = self.bert.evaluate(inputs)
        h, _ = take_positions.forward(hidden, targets.positions)
        pooled, _ = self.bert.pooler.forward(hidden)
        found: tuple[Array, Array, Array]
        found = to_host((self._word_logits(h), targets.ids, self.seq_relationship.forward(pooled)[0]))
        return found

    def _word_logits(self, h: Array) -> Array:
        """Hidden states (…, D) -> a score for every word (…, V)."""
        h, _ = self.predictions.forward(h)
        return h @ self.decoder.T + self.predictions.bias.data

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None, token_type_ids: Array | None = None,
        position_ids: Array | None = None, labels: Array | None = None, next_sentence_label: Array | None = None,
        output_hidden_states: bool = False, output_attentions: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `prediction_logits` (B, T, V), `seq_relationship_logits` (B, 2); `loss` where labels are given."""
        encoded = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )
        out = ModelOutput(
            prediction_logits=self._word_logits(encoded.last_hidden_state),
            seq_relationship_logits=self.seq_relationship.forward(encoded.pooler_output)[0],
        )
        if labels is not None or next_sentence_label is not None:
            targets = check_targets(labels, next_sentence_label, self.config, out.prediction_logits.shape[:2])
            targets = beside(targets, self.decoder)
            loss: Any = 0.0
            if targets.counts["mlm"]:
                logits = out.prediction_logits.reshape(-1, self.config.vocab_size)[targets.positions]
                loss = loss + cross_entropy.forward(logits, targets.ids)[0]
            if targets.next_sentence is not None:
                loss = loss + cross_entropy.forward(out.seq_relationship_logits, targets.next_sentence)[0]
            out["loss"] = loss
        for name in ("hidden_states", "attentions"):
            if name in encoded:
                out[name] = encoded[name]
        return out

    def _check(self, batch: dict[str, Array], counts: dict[str, int] | None = None) -> tuple[BertInputs, BertTargets]:
        asked = {"labels", "next_sentence_label"}
        inputs = check_inputs(self.config, **{name: array for name, array in batch.items() if name not in asked})
        labels, nsp = batch.get("labels"), batch.get("next_sentence_label")
        targets = check_targets(labels, nsp, self.config, inputs.input_ids.shape, counts)
        return beside(inputs, self.decoder), beside(targets, self.decoder)


def check_inputs(
    config: BertConfig, input_ids: Array, attention_mask: Array | None = None, token_type_ids: Array | None = None,
    position_ids: Array | None = None,
) -> BertInputs:  # fmt: skip
    """Check a batch at the door, on the host, and fill in what was left out.

    Raises InputError for ids outside their tables, a sequence over the longest, shapes that differ, a mask that is
    not of 0 and 1, or a row in which all is padding.
    """
    ids = as_array("input_ids", input_ids)
    if ids.ndim != 2 or ids.size == 0:
        raise InputError(f"input_ids: shape {ids.shape} given, expected (batch, length); a single sequence needs [ids]")
    require_ids(ids, config.vocab_size, "input_ids")
    if ids.shape[1] > config.max_position_embeddings:
        raise InputError(
            f"input_ids: length {ids.shape[1]} is over the model's {config.max_position_embeddings} positions; truncate"
        )
    segments = np.zeros_like(ids) if token_type_ids is None else as_array("token_type_ids", token_type_ids)
    positions = np.arange(ids.shape[1]) if position_ids is None else as_array("position_ids", position_ids)
    positions = np.atleast_2d(positions)
    require_ids(segments, config.type_vocab_size, "token_type_ids")
    require_ids(positions, config.max_position_embeddings, "position_ids")
    visible = np.ones_like(ids) if attention_mask is None else as_array("attention_mask", attention_mask)
    for name, array in (("token_type_ids", segments), ("attention_mask", visible)):
        if array.shape != ids.shape:
            raise InputError(f"{name}: shape {array.shape} given, expected that of input_ids, {ids.shape}")
    if positions.shape not in (ids.shape, (1, ids.shape[1])):
        raise InputError(f"position_ids: shape {positions.shape} given, expected that of input_ids, {ids.shape}")
    strange = visible[(visible != 0) & (visible != 1)]
    if strange.size:
        raise InputError(f"attention_mask: {strange[0]} given, expected 1 (a token) or 0 (padding), not scores to add")
    visible = visible != 0
    empty = np.flatnonzero(~visible.any(axis=1))
    if empty.size:
        raise InputError(f"attention_mask: row {empty[0]} is all padding; every sequence needs a token to attend to")
    return BertInputs(ids, segments, positions, None if visible.all() else visible[:, None, None, :])


def check_targets(
    labels: Array | None, next_sentence_label: Array | None, config: BertConfig,
    shape: tuple[int, ...] | None = None, counts: dict[str, int] | None = None,
) -> BertTargets:  # fmt: skip
    """Turn labels (B, T), -100 = not asked, into the M masked positions; check both tasks' labels.

    Raises InputError where nothing is asked, no position is masked, a shape differs, or a label is none of the classes.
    """
    if labels is None and next_sentence_label is None:
        raise InputError("nothing to learn from: give labels, next_sentence_label or both")
    positions = ids = np.zeros(0, int)
    if labels is not None:
        labels = as_array("labels", labels)
        if shape is not None and labels.shape != shape:
            raise InputError(f"labels: shape {labels.shape} given, expected that of input_ids, {shape}")
        positions = np.flatnonzero(labels != IGNORE)
        ids = labels.reshape(-1)[positions]
        require_ids(ids, config.vocab_size, "labels")
    nsp = None
    if next_sentence_label is not None:
        nsp = as_array("next_sentence_label", next_sentence_label).reshape(-1)
        if shape is not None and nsp.shape != shape[:1]:
            raise InputError(f"next_sentence_label: {nsp.size} given, expected one for each of {shape[0]} rows")
        require_ids(nsp, 2, "next_sentence_label (0 = is next, 1 = is not)")
    if counts is None:
        counts = {"mlm": len(positions), "nsp": 0 if nsp is None else len(nsp)}
        if labels is not None and not counts["mlm"]:
            raise InputError("labels: all are -100, so no position is masked and the loss has nothing to average over")
    return BertTargets(positions, ids, nsp, counts)
