"""Data of the review pages: queue, labels, frame details, explanations, pixels."""

__all__ = [
    "active_learning",
    "examples",
    "explain",
    "extension_links",
    "frame_detail",
    "idempotency",
    "pixels",
    "pyramid",
    "queue",
    "queue_filters",
    "queue_items",
]
