"""Judgment of tokenizer health: warnings with remedies, and reasons to stop."""

from collections.abc import Iterator

from reg4rec.tokenizer.config import Floors, suggested_codebook_size
from reg4rec.tokenizer.health import Health

__all__ = ["collapse_reason", "health_warnings"]

MOVED, SIMILAR = 0.5, 0.75
"""Above the values of the best tokens on Beauty and Toys, which are up to 0.34 and 0.65."""


def collapse_reason(health: Health, floors: Floors) -> str | None:
    """Why these tokens are unusable and what to do about it, in one line; None if they are usable."""
    collisions = health.collision_rate - health.collision_rate_identical
    if min(health.usage) < floors.min_usage:
        return (
            f"codebook {_lowest(health.usage)} uses {min(health.usage):.1%} of its attainable codewords "
            f"(floor {floors.min_usage:.1%}); lower codebook_size or learning_rate, or give views that differ more"
        )
    if max(health.gate_mean) > floors.max_gate_share and len(health.gate_mean) > 1:
        return (
            f"the gate gives expert {_highest(health.gate_mean)} {max(health.gate_mean):.1%} of the weight "
            f"(limit {floors.max_gate_share:.1%}), so other tokens mean nothing; lower learning_rate or num_codebooks"
        )
    if health.max_similarity > floors.max_similarity:
        return (
            f"two codebooks are copies (similarity {health.max_similarity:.3f}, limit {floors.max_similarity:.3f}); "
            "lower num_codebooks, or with kind='mpq' use orthogonality='decorrelation' or raise orthogonality_weight"
        )
    if collisions > floors.max_collision_rate:
        return (
            f"{collisions:.1%} of the items share all tokens with another item of a different vector "
            f"(limit {floors.max_collision_rate:.1%}); raise codebook_size or num_codebooks"
        )
    if not health.relative_error <= floors.max_relative_error:
        return (
            f"the tokens describe items far worse than one mean vector would (relative error "
            f"{health.relative_error:.3f}, limit {floors.max_relative_error:.3f}); lower learning_rate"
        )
    if health.rebuilt_spread < floors.min_rebuilt_spread:
        return (
            f"the decoder maps all tokens to the same vector (spread {health.rebuilt_spread:.4f}, "
            f"floor {floors.min_rebuilt_spread:.4f} of the item vectors'); lower learning_rate or train for more epochs"
        )
    return None


def health_warnings(health: Health) -> list[str]:
    """Problems that are not fatal, one sentence each with its remedy."""
    return list(_warnings(health))


def _warnings(health: Health) -> Iterator[str]:
    if health.attainable < health.codebook_size:
        yield (
            f"there are only {health.attainable} different item vectors for codebooks of {health.codebook_size}; "
            f"use codebook_size={suggested_codebook_size(health.attainable)} or richer views"
        )
    elif health.num_items < 4 * health.codebook_size:
        yield (
            f"{health.codebook_size} codewords are too many for {health.num_items} items to share tokens; "
            f"use codebook_size={suggested_codebook_size(health.num_items)}"
        )
    if min(health.usage) < 0.95:
        yield (
            f"codebook {_lowest(health.usage)} leaves {1 - min(health.usage):.1%} of its codewords unused; "
            "lower codebook_size or train for more epochs"
        )
    if health.collision_rate_identical > 0.01:
        yield (
            f"{health.collision_rate_identical:.1%} of the items have the same vector as another item; "
            "give views that distinguish them (more text, images)"
        )
    if health.collision_rate > 0.05:
        yield (
            f"{health.collision_rate:.1%} of the items share all tokens with another item; "
            "raise codebook_size or num_codebooks, or turn separate_collisions on"
        )
    if health.moved_rate > MOVED:
        yield (
            f"{health.moved_rate:.1%} of the items were moved off their nearest codewords to avoid collisions; "
            "raise codebook_size or num_codebooks"
        )
    if health.max_similarity > SIMILAR:
        yield (
            f"two codebooks are nearly copies (similarity {health.max_similarity:.2f}); "
            "lower num_codebooks, or with kind='mpq' raise orthogonality_weight"
        )
    if len(health.gate_mean) > 1 and max(health.gate_mean) > 0.6:
        yield (
            f"the gate gives expert {_highest(health.gate_mean)} {max(health.gate_mean):.1%} of the weight; "
            "lower learning_rate"
        )


def _lowest(values: list[float]) -> int:
    return values.index(min(values))


def _highest(values: list[float]) -> int:
    return values.index(max(values))
