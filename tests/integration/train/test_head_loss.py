"""The loss that the output layer gives: that of all logits, with its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from support.prepared import tiny_llama
from tunesmith_stages.train import head_loss
from tunesmith_stages.train.head_loss import HeadLoss
from tunesmith_stages.train.trainer import token_loss

ROWS, TOKENS = 3, 7


@pytest.fixture(autouse=True)
def _in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tokens of these tests taken four at a time: they are far fewer than a real batch has."""
    for limit in ("LOGITS_AT_ONCE", "_AT_ONCE_ON_CPU", "_FEWEST_TOKENS"):
        monkeypatch.setattr(head_loss, limit, 4)


def a_batch(vocabulary: int, learnt: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, of which about a share `learnt` is learnt."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, vocabulary, (ROWS, TOKENS), generator=generator)
    return ids, ids.masked_fill(torch.rand(ids.shape, generator=generator) >= learnt, -100)


def trained(model: Any, head: HeadLoss, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the loss, as if it were one of several passes, and the gradients."""
    model.zero_grad()
    with head.taken_on(labels):
        loss = token_loss(model(input_ids=ids), labels, 5)
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), **gradients}


def in_use(model: Any) -> HeadLoss:
    head = HeadLoss(model)
    head.use_if_possible(lambda ids: model(input_ids=ids)["logits"], torch.device("cpu"))
    return head


CASES: dict[str, tuple[dict[str, Any], float]] = {
    "all is learnt": ({}, 1.0),
    "answers are": ({}, 0.4),
    "nothing is": ({}, 0.0),
    "tied to the embeddings": ({"tie_word_embeddings": True}, 0.4),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trained layer", "frozen layer"])
@pytest.mark.parametrize("case", CASES)
def test_same_loss_and_gradients(case: str, frozen: bool) -> None:
    """Loss and every gradient are those of the logits, whatever part of the tokens is learnt."""
    config, learnt = CASES[case]
    model = tiny_llama(initializer_range=0.3, **config)
    model.get_output_embeddings().weight.requires_grad_(not frozen)
    ids, labels = a_batch(model.config.vocab_size, learnt)
    plain = trained(model, HeadLoss(model), ids, labels)
    head = in_use(model)
    assert head.used
    fused = trained(model, head, ids, labels)
    assert fused.keys() == plain.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_half_precision() -> None:
    """In 16 bits the gradients differ by rounding alone, and keep the type of what they belong to."""
    model = tiny_llama(initializer_range=0.3).to(torch.bfloat16)
    ids, labels = a_batch(model.config.vocab_size, 1.0)
    plain = trained(model, HeadLoss(model), ids, labels)
    fused = trained(model, in_use(model), ids, labels)
    for name, expected in plain.items():
        assert fused[name].dtype == expected.dtype
        distance = functional.cosine_similarity(fused[name].float().flatten(), expected.float().flatten(), 0)
        assert float(distance) > 0.999, name


def test_float16_does_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens sum up to more than float16 can hold, before the loss is divided by their number."""
    monkeypatch.setattr(head_loss, "_FEWEST_TOKENS", 3000)
    layer = nn.Linear(16, 32, bias=False)
    hidden, targets = torch.randn(4096, 16), torch.zeros(4096, dtype=torch.long)
    hidden[:, 0] = 60.0  # as the states before an output layer have it in some places
    (functional.cross_entropy(layer(hidden), targets, reduction="sum") / 4096).backward()
    expected = layer.weight.grad
    layer.weight.grad = None
    layer.half()
    (head_loss._LinearCrossEntropy.apply(hidden.half(), layer.weight, None, targets) / 4096).backward()
    assert layer.weight.grad.dtype is torch.float16
    torch.testing.assert_close(layer.weight.grad.float(), expected, rtol=0.02, atol=0.02)


def test_a_layer_with_a_bias() -> None:
    """A bias takes part, and is trained."""
    model = tiny_llama(initializer_range=0.3, tie_word_embeddings=False)
    layer = model.get_output_embeddings()
    layer.bias = nn.Parameter(torch.linspace(-1, 1, layer.out_features))
    ids, labels = a_batch(model.config.vocab_size, 0.6)
    plain = trained(model, HeadLoss(model), ids, labels)
    fused = trained(model, in_use(model), ids, labels)
    assert "lm_head.bias" in fused
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_logits_are_there_where_no_labels_are_given() -> None:
    """Proofs, probes and questions see the logits as ever."""
    model = tiny_llama()
    ids, _ = a_batch(model.config.vocab_size, 1.0)
    before = model(input_ids=ids)["logits"]
    in_use(model)
    assert torch.equal(model(input_ids=ids)["logits"], before)


def test_an_evaluation_makes_no_gradients() -> None:
    """Where the loss alone is wanted, less is computed than for the logits: the last token of a row has no next one."""
    model = tiny_llama(tie_word_embeddings=False)
    ids, labels = a_batch(model.config.vocab_size, 1.0)
    operations = []
    for head in (HeadLoss(model), in_use(model)):
        with torch.no_grad(), head.taken_on(labels), FlopCounterMode(display=False) as counter:
            token_loss(model(input_ids=ids), labels)
        operations.append(counter.get_total_flops())
    plain, fused = operations
    assert 0 < fused < plain


class _Capped(nn.Module):  # type: ignore[misc]
    """A layer in which logits go on to something else."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": 30 * torch.tanh(self.inner(input_ids=input_ids)["logits"] / 30)}


def test_models_that_cap_their_logits_keep_them() -> None:
    """Where something is done to the logits afterwards, the loss of the layer would not be the model's."""
    model = tiny_llama(initializer_range=0.3)
    capped = _Capped(model)
    head = HeadLoss(model)
    head.use_if_possible(lambda ids: capped(input_ids=ids)["logits"], torch.device("cpu"))
    assert not head.used


def test_an_adapted_output_layer_keeps_its_logits() -> None:
    """With an adapter on it, the layer is another one."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(tie_word_embeddings=False), LoraConfig(target_modules=["lm_head"]))
    assert not in_use(model).used
