"""What a card can do at most, by its data sheet. MFU is measured against it."""

from __future__ import annotations

# Dense bfloat16 in TFLOP/s, by a part of the card's name. The first that fits counts.
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}


def peak_flops(name: str) -> float | None:
    """FLOP/s of the card with this name; None if it is not known."""
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None)


def utilization(name: str, flops: float | None, seconds: float) -> float | None:
    """MFU: the share of the card's peak. flops: what the model needs in these seconds."""
    peak = peak_flops(name)
    return round(flops / seconds / peak, 4) if peak and flops else None
