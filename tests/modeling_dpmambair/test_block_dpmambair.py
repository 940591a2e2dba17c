import pytest
import torch
import torch.nn.functional as F

from modeling_dpmambair.block_dpmambair import (
    EMBEDDING_TOKENS,
    DegradationPromptMixer,
    EmbeddingAttention,
    EmbeddingConcatenation,
    PromptedScan,
)
from modeling_dpmambair.selective_scan_dpmambair import selective_scan_loop
from tests.modeling_dpmambair.models import randomized, small_config


def fill(module, scale=0.3):
    """Give every parameter of a module outside a model a random value, the uninitialised ones included."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return module


def make_scan(dim=4, is_reversed=False, **changes):
    return fill(PromptedScan(small_config(**changes), dim, is_reversed))


def scan_by_hand(scan, x, gate, embedding, is_reversed=False):
    """Write Eqs. 7-9 out channels-first, in float64, with the loop as the recurrence."""
    scan, x, gate, embedding = scan.double(), x.double(), gate.double(), embedding.double()
    channels, states = scan.A_log.shape
    convolved = F.conv2d(x.permute(0, 3, 1, 2), scan.conv.weight, scan.conv.bias, padding=1, groups=channels)
    u = F.silu(convolved).flatten(2).mT
    rank = scan.dt_proj.weight.shape[1]
    projected = u @ scan.x_proj.weight.T
    dt, B, C = projected[..., :rank], projected[..., rank : rank + states], projected[..., -states:]
    m = {
        name: F.linear(
            F.gelu(F.linear(embedding, p.in_proj.weight, p.in_proj.bias)), p.out_proj.weight, p.out_proj.bias
        )
        for name, p in scan.prompts.items()
    }
    delta = F.softplus(dt @ scan.dt_proj.weight.T + scan.dt_proj.bias)
    if "delta" in m:
        delta = delta * torch.exp(3 * torch.tanh(m["delta"] / 3))[:, None]
    B = B * (1 + m["B"])[:, None] if "B" in m else B
    C = C * (1 + m["C"])[:, None] if "C" in m else C
    sequences = [each.flip(1) if is_reversed else each for each in (u, delta, B, C)]
    u, delta, B, C = sequences
    y = selective_scan_loop(u, delta, -torch.exp(scan.A_log), B, C, scan.D)
    y = y.flip(1) if is_reversed else y
    normed = F.layer_norm(y, (channels,), scan.norm.weight, scan.norm.bias, scan.norm.eps).view_as(x)
    return normed * F.silu(gate)


@pytest.mark.parametrize("prompts", [["delta", "B", "C"], ["delta"], ["B"], ["C"], []], ids="-".join)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_scan_is_equations_7_to_9(prompts, is_reversed):
    scan = make_scan(prompts=prompts, is_reversed=is_reversed)
    x, gate, embedding = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    with torch.no_grad():
        y = scan(x, gate, embedding)
        expected = scan_by_hand(scan, x, gate, embedding, is_reversed)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompts", [["delta", "B", "C"], ["B"], []], ids="-".join)
def test_switched_off_prompts_are_ones(prompts):
    alphas = make_scan(prompts=prompts).compute_prompts(torch.randn(3, 8))._asdict()
    assert {name: tuple(each.shape) for name, each in alphas.items()} == {"delta": (3, 4), "B": (3, 3), "C": (3, 3)}
    assert [name for name, each in alphas.items() if torch.equal(each, torch.ones_like(each))] == [
        name for name in alphas if name not in prompts
    ]


def test_step_size_prompt_stays_positive_and_bounded():
    scan = make_scan(prompts=["delta"])
    alpha = scan.compute_prompts(1e4 * torch.randn(50, 8)).delta
    assert alpha.min() >= torch.exp(torch.tensor(-3.0)) * 0.999
    assert alpha.max() <= torch.exp(torch.tensor(3.0)) * 1.001
    assert alpha.max() > 10 * alpha.min()


def test_mixer_gates_and_two_directions_add():
    one = fill(DegradationPromptMixer(small_config(), 4))
    two = fill(DegradationPromptMixer(small_config(scan_directions=2), 4))
    x, embedding = torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    for mixer in (one, two):
        branch, gate = (x @ mixer.in_proj.weight.T).chunk(2, -1)
        scanned = mixer.scan(branch, gate, embedding)
        if mixer is two:
            scanned = scanned + mixer.reverse_scan(branch, gate, embedding)
        expected = scanned @ mixer.out_proj.weight.T
        torch.testing.assert_close(mixer(x, embedding), expected, rtol=1e-5, atol=1e-5)
    assert one.reverse_scan is None
    assert two.reverse_scan.is_reversed
    assert not two.scan.is_reversed


def test_reverse_scan_lets_the_first_pixel_see_the_last():
    mixer = fill(DegradationPromptMixer(small_config(scan_directions=2, d_conv=1), 4))
    x, embedding = torch.randn(1, 4, 5, 4), torch.randn(1, 8)
    other = x.clone()
    other[:, -1, -1] += 5.0
    assert not torch.equal(mixer(x, embedding)[:, 0, 0], mixer(other, embedding)[:, 0, 0])
    gate = torch.ones_like(x)
    assert torch.equal(mixer.scan(x, gate, embedding)[:, 0, 0], mixer.scan(other, gate, embedding)[:, 0, 0])


def test_zero_order_hold_reaches_the_scan():
    scan, held = make_scan(), make_scan(discretization="zoh")
    held.load_state_dict(scan.state_dict())
    x, gate, embedding = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    assert not torch.allclose(scan(x, gate, embedding), held(x, gate, embedding), rtol=1e-3, atol=1e-3)


def test_concatenation_is_a_linear_map_of_pixel_and_embedding():
    insertion = randomized(EmbeddingConcatenation(small_config(prompts=[], insertion="concatenation"), 4))
    x, embedding = torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    mapped = insertion.embed(embedding)
    expected = torch.stack([
        torch.stack([insertion.fuse(torch.cat([pixel, mapped[b]])) for pixel in x[b].flatten(0, 1)]) for b in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(insertion(x, embedding), expected.view_as(x), rtol=1e-5, atol=1e-5)


def test_attention_is_softmax_over_the_embeddings_tokens():
    insertion = fill(EmbeddingAttention(small_config(prompts=[], insertion="attention"), 4), 1.0)
    x, embedding = torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    query = insertion.query(x).flatten(1, 2)
    tokens = insertion.key_value(embedding).view(2, EMBEDDING_TOKENS, 8)
    key, value = tokens[..., :4], tokens[..., 4:]
    weights = torch.softmax(query @ key.mT / 4**0.5, -1)
    expected = x + insertion.out_proj(weights @ value).view_as(x)
    torch.testing.assert_close(insertion(x, embedding), expected, rtol=1e-5, atol=1e-5)
